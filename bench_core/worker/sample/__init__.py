"""Memory, power and CPU time, read beside the engine."""
