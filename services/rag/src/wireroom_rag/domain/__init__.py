"""What documents, scopes and citations are; no input or output."""
