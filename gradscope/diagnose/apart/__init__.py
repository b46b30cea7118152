"""Two sides of recordings, and where they part: pure functions."""
