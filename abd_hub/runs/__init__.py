"""One file a command, from its configuration to its output folder."""
