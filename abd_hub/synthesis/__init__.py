"""Data-free methods, one file each: where the student's images come from."""
