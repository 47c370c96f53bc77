"""Reading feed documents, in a process that may be killed."""
