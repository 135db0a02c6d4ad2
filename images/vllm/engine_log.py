"""What vLLM says in its log and nowhere else: the memory that its CUDA graphs take."""

from __future__ import annotations

import logging

# Of vllm 0.26, v1/worker/gpu/model_runner.py: ("Graph capturing finished in %.0f secs, took %.2f GiB", seconds, GiB).
_GRAPHS = "Graph capturing finished"


class EngineLog(logging.Handler):
    """Listens to the engine's logger as long as the process lives.

    Attributes:
        graphs_bytes: of the graphs recorded last, free memory before less after; ``None`` where none were.
    """

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.graphs_bytes: int | None = None
        logging.getLogger("vllm").addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps the one figure; a line that reads otherwise is left alone."""
        if str(record.msg).startswith(_GRAPHS) and isinstance(record.args, tuple) and len(record.args) == 2:
            took_gib = record.args[1]
            if isinstance(took_gib, float):
                self.graphs_bytes = round(took_gib * 2**30)
