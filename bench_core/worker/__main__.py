"""``python -m bench_core.worker``: the entry point of every image."""

import gc
import os
import sys

# Plugins of pydantic would be looked for in every package of the image, at each start of a process; none is used here.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
# What is imported stays: looking for garbage among it costs a fifth of the import, and again at each later collection.
gc.disable()

from bench_core.worker.cli import main  # noqa: E402

gc.enable()
gc.freeze()

if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # every file is closed; taking each module apart before would cost a tenth of a short cell
