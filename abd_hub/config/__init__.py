"""What a user can set: options of every command, and how YAML and the command line become them."""
