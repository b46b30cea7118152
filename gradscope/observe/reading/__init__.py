"""Tensors of one step to rows of the recording."""
