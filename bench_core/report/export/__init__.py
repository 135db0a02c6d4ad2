"""A run as tables for other programs: Parquet, CSV, JSON, and llm-d's Benchmark Report."""
