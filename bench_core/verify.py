"""``python -m bench_core.verify RUN``: a door to the report room, which does the work."""

from __future__ import annotations

from bench_core.report.verify_cli import main

if __name__ == "__main__":
    main()
