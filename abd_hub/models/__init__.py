"""This package loads a classifier from a name or a folder; the classifier takes pixels."""
