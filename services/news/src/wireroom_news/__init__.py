"""Feeds and articles."""
