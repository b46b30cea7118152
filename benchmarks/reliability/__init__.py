"""What happens when things go wrong: faults on purpose, and hostile input by the thousand."""
