"""Checkpoint files: what kind it is, whose names it holds, and how one is written."""
