"""Many runs from one file, on Ray."""
