"""Plug-ins that examine a classifier for a backdoor, without its training data."""
