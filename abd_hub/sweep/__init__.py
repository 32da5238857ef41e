"""Carries out many runs from one file, on Ray."""
