"""What a file's own graph says that it computes, found without the library that wrote it."""
