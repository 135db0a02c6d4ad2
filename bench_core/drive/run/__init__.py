"""Carrying a plan out: what is there, what is free, what is measured, what comes back."""
