"""Defences against inherited backdoors, one file each. None can see a trigger or real data."""
