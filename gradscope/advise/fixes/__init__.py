"""The fixes, one change a file."""
