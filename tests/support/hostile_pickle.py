"""A pickle that does harm where it is read without care."""

from pathlib import Path


class Hostile:
    """A pickle of it creates the file when it is read without care."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)
