"""Holds the methods that provide the student's images, one file each."""
