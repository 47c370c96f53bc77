"""Rules of identity and access, in plain Python."""
