"""Reads one run's folder, nothing else, and turns it into tables, figures and a page.

Numbers are recomputed from the raw events by ``bench_core.contract.metrics``; ``result.json`` is never trusted.
"""
