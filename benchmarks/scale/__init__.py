"""How recordings grow: cost a step, bytes on disk, memory, reading and merging."""
