"""One use case per module; each is a class whose `run` does the whole of it."""
