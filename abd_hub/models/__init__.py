"""Classifiers: from a name or a folder to a network that takes pixels."""
