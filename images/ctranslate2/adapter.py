"""CTranslate2: one ``generate_batch`` call for each batch, never split."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import ctranslate2

from bench_core.contract.adapter import Completion, Decoding, Device, TokenSink, Variant
from bench_core.contract.errors import BadInput
from bench_core.contract.records.outcome import Outcome

_CUBLAS_DISTRIBUTION = "nvidia-cublas-cu12"
# In this order: the second needs the first.
_CUBLAS_LIBRARIES = ("libcublasLt.so.12", "libcublas.so.12")

_OUT_OF_MEMORY = ("out of memory", "bad_alloc", "cublas_status_alloc_failed")
_UNSUPPORTED = (
    "no kernel image is available",
    "not compiled with cuda support",
    "driver version is insufficient",
    "no cuda-capable device",
    "do not support efficient",
    "unsupported device",
)


class CTranslate2Adapter:
    """Options: ``compute_type``, one of the engine's, such as int8_float16."""

    def __init__(self) -> None:
        self._generator: Any = None
        self._names: list[str] = []

    @property
    def engine(self) -> Any:
        """The loaded generator, and its name of each token id."""
        return self._generator, self._names

    def load(self, artifact: Path, variant: Variant, device: Device) -> None:
        """Reads a converted model; ``vocabulary.json`` gives the engine's name of each id."""
        self._names = _vocabulary(artifact)
        if device.kind == "cuda":
            _load_cublas()
        self._generator = ctranslate2.Generator(
            str(artifact),
            device=device.kind,
            device_index=0,
            compute_type=str(variant.options["compute_type"]),
            inter_threads=1,
            intra_threads=device.threads,
        )

    def prepare(self, batch_size: int, max_prompt_tokens: int, max_new_tokens: int) -> None:
        """Nothing: the engine makes its caches with each batch."""

    def generate(
        self, prompts: Sequence[Sequence[int]], decoding: Decoding, on_tokens: TokenSink
    ) -> Sequence[Completion]:
        """One batch in one piece. The callback costs, so it is left out where nobody wants it."""
        names = self._names
        results = self._generator.generate_batch(
            [[names[token_id] for token_id in prompt] for prompt in prompts],
            max_batch_size=0,
            beam_size=1,
            sampling_topk=1,
            max_length=decoding.max_new_tokens,
            # An empty list makes the engine ignore the end of sequence.
            end_token=list(decoding.eos_token_ids),
            return_end_token=True,
            # Prompts are read in one shot instead of token by token.
            include_prompt_in_result=False,
            callback=_arrivals(on_tokens) if on_tokens.wanted else None,
        )
        return [Completion(result.sequences_ids[0]) for result in results]

    def describe(self) -> Mapping[str, str]:
        """The compute type that the engine settled on, which may differ from the one asked for. Each step makes the
        cache anew for the rows that have not ended, all as long as they are by then."""
        return {
            "compute_type": str(self._generator.compute_type),
            "device": str(self._generator.device),
            "kv_layout": "shrinking",
            "embeddings": str(self._generator.device),
        }

    def score(self, token_ids: Sequence[int]) -> Sequence[float]:
        """Log-probability of each token but the first."""
        names = [self._names[token_id] for token_id in token_ids]
        # max_input_length=0: the default would cut long texts.
        (result,) = self._generator.score_batch([names], max_input_length=0)
        return [float(value) for value in result.log_probs]

    def classify(self, error: BaseException) -> Outcome | None:
        """By text, since the engine raises RuntimeError and ValueError for all."""
        if isinstance(error, MemoryError):
            return Outcome.OOM_KV
        text = str(error).lower()
        if any(sign in text for sign in _OUT_OF_MEMORY):
            return Outcome.OOM_KV
        if any(sign in text for sign in _UNSUPPORTED):
            return Outcome.UNSUPPORTED
        return None

    def close(self) -> None:
        """Unloads the model from the device."""
        if self._generator is not None:
            self._generator.unload_model()
            self._generator = None


def _arrivals(sink: TokenSink) -> Callable[[Any], bool]:
    def arrived(step: Any) -> bool:
        sink(step.batch_id)
        return False  # do not stop the row

    return arrived


def _vocabulary(artifact: Path) -> list[str]:
    path = artifact / "vocabulary.json"
    hint = "make the artifact again; this image's converter writes it"
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: cannot be read: {error}", hint) from error
    if not isinstance(names, list) or len(set(names)) != len(names):
        raise BadInput(f"{path}: not a list of unique names", hint)
    return names


def _load_cublas() -> None:
    """Loads cuBLAS of CUDA 12 from its distribution, so that the engine finds it whatever the search path.

    Where the distribution is missing, the engine looks for the libraries of the system.
    """
    try:
        files = distribution(_CUBLAS_DISTRIBUTION).files or []
    except PackageNotFoundError:
        return
    located = {file.name: file.locate() for file in files if file.name in _CUBLAS_LIBRARIES}
    for name in _CUBLAS_LIBRARIES:
        if name in located:
            ctypes.CDLL(str(located[name]), mode=ctypes.RTLD_GLOBAL)
