"""``python -m bench_core.compare``."""

import gc

# What is imported stays: no garbage is looked for among it, now or in any later collection.
gc.disable()

from bench_core.compare.cli import main  # noqa: E402

gc.freeze()
gc.enable()

if __name__ == "__main__":
    main()
