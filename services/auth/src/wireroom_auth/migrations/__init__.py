"""Schema `auth`, revision by revision."""
