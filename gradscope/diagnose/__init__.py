"""Stage 3: from a recording to outcomes; pure functions."""
