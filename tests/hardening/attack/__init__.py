"""What hostile and damaged files are made of, and the process that meets them."""
