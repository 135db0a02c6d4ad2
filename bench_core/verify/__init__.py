"""Compares everything that a run keeps and publishes with what follows from its raw events; changes nothing."""
