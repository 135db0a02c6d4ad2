"""Log-probabilities of one text by a converted model, in a process of its own, since ggml ends the process where a
model's sizes do not go together.

Standard input: token ids as JSON. Standard output: one number for each token but the first.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

from adapter import LlamaCppAdapter

from bench_core.contract.adapter import Device, Variant

OPTIONS: Mapping[str, str | int] = {"file_type": "", "flash_attention": "disabled", "kv_type": "f32", "n_ubatch": 512}


def main() -> None:
    """Scores with the model in the folder that is named."""
    adapter = LlamaCppAdapter()
    adapter.load(Path(sys.argv[1]), Variant("f32", "gguf-f32", OPTIONS), Device("cpu"))
    scores = list(adapter.score(json.load(sys.stdin)))
    adapter.close()
    sys.stdout.write(json.dumps(scores) + "\n")


if __name__ == "__main__":
    main()
