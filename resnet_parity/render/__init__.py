"""Everything that is printed or drawn for a terminal."""
