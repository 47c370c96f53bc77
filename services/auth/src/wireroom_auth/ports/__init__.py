"""What the use cases need from the outside: one module per concept."""
