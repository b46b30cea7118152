"""What is trained: models, owners, lines that build them, optimizers."""
