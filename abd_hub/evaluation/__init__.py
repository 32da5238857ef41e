"""Clean accuracy, attack success rate and their intervals; nothing here is written to a file."""
