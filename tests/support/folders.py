"""What lies in a folder, to compare before and after a command."""

import hashlib


def snapshot(folder):
    """Every file and folder with its content."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(folder.rglob("*"))
    }


def tree(path):
    return sorted(str(entry.relative_to(path)) for entry in path.rglob("*"))
