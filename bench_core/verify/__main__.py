"""``python -m bench_core.verify``."""

from bench_core.verify.cli import main

if __name__ == "__main__":
    main()
