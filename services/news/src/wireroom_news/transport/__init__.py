"""The service's RPCs."""
