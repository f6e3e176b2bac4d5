"""Damaged, hostile and enormous files: refused in one sentence, and nothing else happens."""
