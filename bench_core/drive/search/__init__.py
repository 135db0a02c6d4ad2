"""Searches: many short cells for one answer."""
