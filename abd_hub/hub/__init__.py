"""Asking the Hub for files: what is there, how large, and the bytes themselves."""
