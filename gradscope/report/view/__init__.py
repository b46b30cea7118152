"""What the page shows, as plain data for the templates: arranged, not judged."""
