"""The launcher: the only code that knows several services."""
