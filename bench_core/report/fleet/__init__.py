"""Cells that several devices measured side by side."""
