"""The named models: one file a family of names."""
