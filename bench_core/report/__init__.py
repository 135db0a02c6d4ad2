"""Turns a run into tables, figures and a page: what is said, then how it is dressed."""
