"""Runs beside each other: what has changed between two of them, and whether that is worse than is allowed."""
