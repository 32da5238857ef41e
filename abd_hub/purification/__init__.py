"""Plug-ins that make a cleaner copy of a classifier, without its training data."""
