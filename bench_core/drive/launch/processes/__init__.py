"""Launching in processes with virtual environments of their own."""
