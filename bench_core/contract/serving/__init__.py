"""Serving: requests over HTTP under a load. What a load point is, what a client records, and what follows from it."""
