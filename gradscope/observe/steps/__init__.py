"""Where a step begins and ends, in whatever way the loop is written."""
