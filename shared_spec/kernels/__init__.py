"""The only files of this package that touch a framework: each imports it where it is called."""
