"""Repeated requests: keys, stored answers, and where they are kept."""
