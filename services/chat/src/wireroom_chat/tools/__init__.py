"""What an assistant can do besides writing: one module per family of tools, the arithmetic pure."""
