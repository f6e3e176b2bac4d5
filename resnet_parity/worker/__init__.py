"""What runs inside an engine's process; frameworks are imported here alone."""
