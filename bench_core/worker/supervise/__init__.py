"""The supervisor: watches over the engine's process and writes what it tells."""
