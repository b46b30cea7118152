"""Copies, held-still states and changed runs: what gradient checks and trials stand on."""
