"""Thin adapters to frameworks; none is imported unless the user has imported it."""
