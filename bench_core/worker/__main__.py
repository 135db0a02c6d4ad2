"""``python -m bench_core.worker``: the entry point of every image."""

import sys

from bench_core.worker.cli import main

if __name__ == "__main__":
    sys.exit(main())
