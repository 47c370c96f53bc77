"""Schema revisions of the chat service."""
