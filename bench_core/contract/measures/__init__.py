"""What is computed from raw events."""
