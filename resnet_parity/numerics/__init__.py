"""What two results differ by, and by how much they may."""
