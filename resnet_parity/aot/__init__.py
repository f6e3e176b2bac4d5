"""Compiling for devices that this machine has not: what is asked, and how it is judged."""
