"""Each file runs one command, from its configuration to its output folder."""
