"""Launching in containers, through the Docker SDK."""
