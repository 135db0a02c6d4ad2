"""Figures of a run. Importing a module of this room imports altair, which takes a second."""
