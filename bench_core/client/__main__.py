"""``python -m bench_core.client``: the entry point of the client's container."""

import sys

from bench_core.client.cli import main

if __name__ == "__main__":
    sys.exit(main())
