"""Files of arrays, read without a framework and without executing anything that they hold.

Each module opens one kind of file as a `Source`, whose arrays are read one at a time, and writes
one from any mapping of arrays. What the names in a file mean is told by
`shared_spec.formats.dialects`.
"""
