"""``python -m bench_core.drive.show.page RUN PARENT [--idle]``: a run's page on standard output, for ``--watch``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from bench_core.contract.errors import BadInput
from bench_core.contract.records.outcome import EXIT_BAD_INPUT, EXIT_OK


def main(arguments: list[str]) -> int:
    """Writes the page; returns the exit code. With ``--idle`` it takes no CPU that another process wants."""
    run, parent, *words = arguments
    if "--idle" in words:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    from bench_core.report.document import document  # noqa: PLC0415  # seconds of importing, at that priority
    from bench_core.report.page.write import html  # noqa: PLC0415
    from bench_core.runs.load import load_run  # noqa: PLC0415

    if os.getppid() != int(parent):
        return EXIT_BAD_INPUT
    try:
        view = load_run(Path(run))
        text = html(view, document(view))
    except BadInput as error:
        sys.stderr.write(f"{error.cause}\n")
        return EXIT_BAD_INPUT
    sys.stdout.buffer.write(text.encode())
    sys.stdout.flush()
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
