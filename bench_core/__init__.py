"""A benchmark suite for LLM inference engines: same prompts, same ids, same clock, each engine in its own container."""

__version__ = "0.2.0"
