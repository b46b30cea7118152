"""Runs the user's code: from a model file to a model, batches, a loss and an optimizer."""
