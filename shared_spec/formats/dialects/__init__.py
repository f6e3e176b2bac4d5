"""What the names in a file of arrays mean: one module for each library's way to call the same
parameters, all of the one form that `shared_spec.formats.dialects.dialect` describes.
"""
