"""Ways of starting an engine."""
