"""Holds the parts of any training loop: losses, schedules, checkpoints, several processes."""
