"""The two training loops, one of students and one of teachers."""
