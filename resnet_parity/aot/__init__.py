"""Compiling for devices that are not here: what is asked, and how the answer is judged."""
