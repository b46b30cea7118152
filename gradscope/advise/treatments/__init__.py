"""The fixes' changes of a live training, each an ``Intervention`` that a child process is sent."""
