"""``python -m bench_core.report``."""

from bench_core.report.cli import main

if __name__ == "__main__":
    main()
