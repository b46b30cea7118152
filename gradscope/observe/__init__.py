"""Stage 1: the only place that registers hooks or patches functions."""
