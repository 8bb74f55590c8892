"""tzfs: a filesystem with time travel."""
