"""Where launches run: the interface that the core speaks, and the pool of this host's devices."""
