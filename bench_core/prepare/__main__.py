"""Entry point of ``python -m bench_core.prepare``."""

from __future__ import annotations

import sys

from bench_core.prepare.cli import main

if __name__ == "__main__":
    sys.exit(main())
