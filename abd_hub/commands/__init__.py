"""The commands: what each takes from the command line, which run it starts, and what it prints."""
