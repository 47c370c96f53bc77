"""Life cycle of a process: what a service declares, and what runs it."""
