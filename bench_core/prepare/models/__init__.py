"""A model's files: found, checked, linked, downloaded or made."""
