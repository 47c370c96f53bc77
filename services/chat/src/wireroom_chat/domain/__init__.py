"""Pure rules of answering: no I/O, no clock, no framework."""
