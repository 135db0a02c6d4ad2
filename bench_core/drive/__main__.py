"""``python -m bench_core.drive``."""

from bench_core.drive.ask.cli import main

if __name__ == "__main__":
    main()
