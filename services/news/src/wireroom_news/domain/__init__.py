"""What feeds and articles are, without network or database."""
