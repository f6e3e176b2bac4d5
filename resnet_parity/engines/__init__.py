"""Worker processes, one an engine, as their parent sees them."""
