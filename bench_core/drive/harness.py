"""``python -m bench_core.drive.harness``: the former name of ``bench_core.drive.own_error``."""

from __future__ import annotations

import typer

from bench_core.drive.own_error import own_error

if __name__ == "__main__":
    typer.run(own_error)
