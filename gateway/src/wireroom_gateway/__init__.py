"""The HTTP edge: one public surface in front of the services."""
