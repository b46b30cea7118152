"""Stage 4: from findings to findings with fixes."""
