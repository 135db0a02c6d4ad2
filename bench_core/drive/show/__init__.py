"""Watching a run while it goes on: on a terminal, and as a page in a browser."""
