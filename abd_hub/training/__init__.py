"""The two loops, of students and of teachers."""
