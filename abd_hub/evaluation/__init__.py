"""Clean accuracy, attack success rate and their intervals; this package writes no files."""
