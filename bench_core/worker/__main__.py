"""``python -m bench_core.worker``: the entry point of every image."""

import os
import sys

# Plugins of pydantic would be looked for in every package of the image, at each start of a process; none is used here.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

from bench_core.worker.cli import main

if __name__ == "__main__":
    sys.exit(main())
