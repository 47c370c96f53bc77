"""PostgreSQL, cryptography and threads behind the ports."""
