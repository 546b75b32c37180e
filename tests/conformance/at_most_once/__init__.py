"""What holds as well where messages are taken at most once."""
