"""Intervals, trends and when to stop: the mathematics that a container decides by."""
