"""The rules, one failure a file, its page beside it."""
