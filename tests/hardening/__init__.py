"""Damaged, hostile and enormous files: each is refused in one sentence, and nothing else happens."""
