"""Reads one run's folder, nothing else, and computes what it says from the raw events.

Numbers are recomputed by ``bench_core.contract.measures.cell``; ``result.json`` is never trusted.
"""
