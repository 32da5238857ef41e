"""Each command reads its arguments, starts its run and prints the result."""
