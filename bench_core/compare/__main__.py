"""``python -m bench_core.compare``."""

from bench_core.compare.cli import main

if __name__ == "__main__":
    main()
