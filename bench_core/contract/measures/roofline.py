"""Bytes and operations that a step needs, from the architecture; how near a cell comes to the measured roofs.

Sources. Roofline: Williams, Waterman, Patterson, "Roofline: an insightful visual performance model for multicore
architectures", CACM 52(4), 2009. Model bandwidth utilisation (MBU): Databricks / MosaicML, "LLM Inference Performance
Engineering: Best Practices", 2023: (bytes of weights and key-value cache / time per output token) / bandwidth of the
device. Model FLOP utilisation (MFU): Chowdhery et al., "PaLM", 2022, appendix B. Both roofs here are measured on the
same device in the same run, not taken from a data sheet. What a model needs:
:mod:`~bench_core.contract.models.model_work`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from bench_core.contract.measures.cell import CellMetrics
from bench_core.contract.models.model import ModelInfo
from bench_core.contract.models.model_work import (
    decode_flop,
    decoder_of,
    embedding_parameters,
    kv_step_bytes,
    prompt_flop,
)
from bench_core.contract.models.steps import DecodeSteps
from bench_core.contract.records import layout
from bench_core.contract.records.device_rates import Roofs
from bench_core.contract.records.record import LARGEST_INT, Record
from bench_core.contract.records.spec import CellSpec

ITEM_BYTES: dict[str, float] = {
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "fp8": 1,
    "int8": 1,
    "q8_0": 34 / 32,  # 32 values of 8 bits and a 16-bit scale
    "q4_0": 18 / 32,
}
_OTHER_NAMES = {"f32": "float32", "fp32": "float32", "f16": "float16", "fp16": "float16", "half": "float16"}
_OTHER_NAMES |= {"bf16": "bfloat16", "float": "float32"}
# An engine that holds as many bytes as all weights take in the dtype that it computes in has quantised none of them.
_AS_STORED_WITHIN = 0.01

# A cell is near a roof from here on. Figures that their authors call good lie at 0.5 to 0.8 of the peak.
NEAR = 0.6
# The GPU waits for the host if no kernel ran in a fifth of the time ...
BUSY = 0.8
# ... or if launching alone takes half of a step: a decoder layer without fused kernels needs at least this many (norm,
# query, key, value, position, attention, output, norm, gate, up, product, down).
LAUNCHES_PER_LAYER = 12
LAUNCHING = 0.5

Bound = Literal["bandwidth-bound", "compute-bound", "host-bound", "mixed"]


def plain_dtype(name: str | None) -> str | None:
    """A dtype under its one name here: ``f16``, ``torch.float16`` and ``FP16`` are ``float16``."""
    if not name:
        return None
    word = name.lower().removeprefix("torch.")
    word = _OTHER_NAMES.get(word, word)
    return word if word in ITEM_BYTES else None


def compute_dtype(facts: Mapping[str, str]) -> str | None:
    """What an engine says that it multiplies in: ``dtype``, or the last part of ``compute_type``
    (``int8_float16``: float16). float32 that may run on tensor cores is ``tf32``; ``None`` where it does not say."""
    told = facts.get("dtype") or facts.get("compute_type", "").rpartition("_")[2]
    dtype = plain_dtype(told)
    if dtype == "float32" and facts.get("float32_matmul_precision") in ("high", "medium"):
        return "tf32"
    return dtype


def kv_item_bytes(facts: Mapping[str, str]) -> float | None:
    """Bytes of one number of the key-value cache: as the engine says (``kv_dtype``, ``kv_type``), else of the dtype
    that it computes in."""
    told = facts.get("kv_dtype") or facts.get("kv_type")
    dtype = plain_dtype(told) if told else compute_dtype(facts)
    return ITEM_BYTES.get("float32" if dtype == "tf32" else dtype or "")


class Weights(Record):
    """Weights as they lie in memory.

    Attributes:
        source: ``engine``: told by it (facts ``weights_bytes`` and ``embedding_bytes``); ``architecture``: number of
            parameters x the dtype that it computes in, for unquantised ones; ``artifact``: as stored.
        embedding_bytes: of the table of input embeddings; ``expert_bytes``: of all routed experts, ``None`` where that
            is not known.
    """

    total_bytes: float = Field(gt=0)
    embedding_bytes: float = Field(ge=0)
    expert_bytes: float | None = Field(0, ge=0)
    source: Literal["engine", "architecture", "artifact"]

    def read_bytes(self, model: ModelInfo, rows: float, tables_on_device: bool = True) -> float | None:
        """What one step of ``rows`` tokens must read: everything but the tables of which it takes rows (input
        embeddings that are not the output layer as well, learned positions), one row of each for each token; of the
        experts those that it is expected to touch."""
        if self.expert_bytes is None:
            return None
        decoder, number = decoder_of(model), self._table_number(model)
        taken = rows * decoder.row_parameters * number if tables_on_device else 0.0
        unread = decoder.table_parameters * number + self.expert_bytes * decoder.untouched_experts(rows)
        return self.total_bytes - unread + taken

    def on_device(self, model: ModelInfo, tables_on_device: bool) -> float:
        """What the device holds. A table that is the output layer as well is there whatever is on the host."""
        tables = 0.0 if tables_on_device else decoder_of(model).table_parameters * self._table_number(model)
        return self.total_bytes - tables

    def _table_number(self, model: ModelInfo) -> float:
        """Bytes of one number of the tables."""
        return self.embedding_bytes / embedding_parameters(model)


def weights_in_memory(spec: CellSpec, facts: Mapping[str, str]) -> Weights | None:
    """The best that is known of a cell's weights; ``None`` without any (a scripted engine)."""
    if spec.artifact == layout.NO_ARTIFACT:
        return None
    model, dtype = spec.model, compute_dtype(facts)
    item = ITEM_BYTES.get("float32" if dtype == "tf32" else dtype or "")
    told = told_bytes(facts.get("weights_bytes"))
    if told is not None:
        table: float | None = told_bytes(facts.get("embedding_bytes"))
        if table is None:
            table = embedding_parameters(model) * item if item else _share(model, told)
        experts: float | None = told_bytes(facts.get("expert_bytes"))
        if experts is None:
            experts = _as_stored(model, told, item)
        return Weights(total_bytes=told, embedding_bytes=min(table, told), expert_bytes=experts, source="engine")
    if spec.artifact == layout.HF_ARTIFACT:
        item = item or ITEM_BYTES.get(model.dtype)
        if item is None:
            return None
        return Weights(
            total_bytes=model.parameters * item,
            embedding_bytes=embedding_parameters(model) * item,
            expert_bytes=decoder_of(model).expert_parameters * item,
            source="architecture",
        )
    if spec.weights is None:
        return None
    total, stored = spec.weights.total_bytes, spec.weights.embedding_bytes
    experts = spec.weights.expert_bytes
    return Weights(
        total_bytes=total,
        embedding_bytes=_share(model, total) if stored is None else stored,
        expert_bytes=_as_stored(model, total, item) if experts is None else experts,
        source="artifact",
    )


def _as_stored(model: ModelInfo, total_bytes: float, item: float | None) -> float | None:
    """Bytes of the experts where only the whole is known: none in a model without any, and their number x the dtype's
    size where all weights take about as much."""
    experts = decoder_of(model).expert_parameters
    if not experts:
        return 0.0
    if item and abs(total_bytes - model.parameters * item) <= _AS_STORED_WITHIN * total_bytes:
        return experts * item
    return None


def tables_on_device(spec: CellSpec, facts: Mapping[str, str]) -> bool | None:
    """Whether the input embeddings lie where the engine computes (fact ``embeddings``: cpu or cuda); ``None`` where it
    does not say and reads an artifact of its own kind. Engines that read the model itself put all of it there."""
    told = facts.get("embeddings")
    if told is not None:
        return told == spec.device
    return True if spec.device == "cpu" or "weights_bytes" in facts or spec.artifact == layout.HF_ARTIFACT else None


def _share(model: ModelInfo, total_bytes: float) -> float:
    """The embeddings' part where only the whole is known: as if every weight took the same room."""
    return total_bytes * embedding_parameters(model) / model.parameters


def told_bytes(text: str | None) -> int | None:
    """A number of bytes among an engine's facts; ``None`` where it says none, or something else."""
    if text is None or not (text.isascii() and text.isdigit() and len(text) <= len(str(LARGEST_INT))):
        return None
    return int(text) if 0 < int(text) <= LARGEST_INT else None


class Roofline(Record):
    """One cell under the roofs of its device; ``None`` where something that it follows from is not known.

    Attributes:
        step_bytes: that one decode step must read: weights, and the key-value cache at the mean context of all rows.
        step_flop: operations of one decode step.
        mbu: step_bytes / (step_s x measured bandwidth). ``mfu``: step_flop / (step_s x measured matrix rate of the
            dtype that the engine computes in). ``prompt_mfu``: the same while prompts are read.
        least_step_s: the longer of step_bytes / bandwidth and step_flop / matrix rate.
        launching: time of ``LAUNCHES_PER_LAYER`` x layers launches one by one / step_s; ``None`` for an engine that
            says that it replays graphs or compiles, which launches for less.
        evidence: what the verdict follows from, in a few words.
        problem: why there is no ``step_bytes``, in a few words; empty where there is, or for a scripted engine.
    """

    rows: float
    step_s: float
    context_tokens: float
    weights_source: Literal["engine", "architecture", "artifact"] | None = None
    step_bytes: float | None = None
    step_flop: float | None = None
    compute_dtype: str | None = None
    mbu: float | None = None
    mfu: float | None = None
    prompt_mfu: float | None = None
    least_step_s: float | None = None
    launching: float | None = None
    utilisation: float | None = None
    bound: Bound | None = None
    evidence: str = ""
    problem: str = ""


@dataclass(frozen=True)
class _Roofs:
    bandwidth: float | None = None
    matrix: float | None = None
    slowest_matrix: float | None = None
    launch_s: float | None = None


def launches_less(facts: Mapping[str, str]) -> bool:
    """Whether an engine says that its steps are not launched kernel by kernel: facts ``cuda_graphs`` and ``compiled``,
    and ggml's line of what it was built with (``system_info``)."""
    graphs = facts.get("cuda_graphs", "none").lower()
    said = graphs not in ("none", "off", "no", "false") or facts.get("compiled") == "yes"
    return said or "USE_GRAPHS = 1" in facts.get("system_info", "")


def roofline(
    spec: CellSpec, facts: Mapping[str, str], metrics: CellMetrics, device_rates: Roofs | None
) -> Roofline | None:
    """Places a cell; ``None`` where its decode steps cannot be timed, or a step gives a row several tokens."""
    steps = metrics.decode
    if steps is None or spec.speculative:
        return None
    model, dtype = spec.model, compute_dtype(facts)
    roofs = _Roofs()
    if device_rates is not None:
        matrix = device_rates.matrix_flop_s(dtype) if dtype else None
        slowest = device_rates.slowest_matrix_flop_s
        roofs = _Roofs(device_rates.bandwidth_bytes_s, matrix, slowest, device_rates.launch_s)
    scripted, problem = spec.artifact == layout.NO_ARTIFACT, decoder_of(model).problem
    real = not scripted and not problem
    weights = weights_in_memory(spec, facts) if real else None
    step_bytes = None
    if not scripted:
        step_bytes, problem = (None, problem) if problem else _step_bytes(spec, facts, weights, steps)
    step_flop = decode_flop(model, steps) if real else None
    mbu, mfu = _used(step_bytes, roofs.bandwidth, steps.step_s), _used(step_flop, roofs.matrix, steps.step_s)
    reading = metrics.prompts
    prompt_mfu = _used(prompt_flop(model, reading), roofs.matrix, reading.seconds) if real and reading else None
    launching = None
    if real and spec.device == "cuda" and roofs.launch_s is not None and not launches_less(facts):
        launching = LAUNCHES_PER_LAYER * model.layers * roofs.launch_s / steps.step_s
    utilisation = metrics.telemetry.utilisation if metrics.telemetry else None
    # An engine that does not say what it computes in may still be far from the lowest roof that there is.
    at_most = _used(step_flop, roofs.slowest_matrix, steps.step_s)
    far = mfu is None and at_most is not None and at_most < NEAR
    bound, evidence = verdict(mbu, at_most if far else mfu, utilisation, launching)
    return Roofline(
        rows=steps.rows,
        step_s=steps.step_s,
        context_tokens=steps.context_tokens,
        weights_source=weights.source if weights else None,
        step_bytes=step_bytes,
        step_flop=step_flop,
        compute_dtype=dtype,
        mbu=mbu,
        mfu=mfu,
        prompt_mfu=prompt_mfu,
        least_step_s=max(mbu, mfu) * steps.step_s if mbu is not None and mfu is not None else None,
        launching=launching,
        utilisation=utilisation,
        bound=bound,
        evidence=evidence,
        problem="" if scripted else problem,
    )


def _step_bytes(
    spec: CellSpec, facts: Mapping[str, str], weights: Weights | None, steps: DecodeSteps
) -> tuple[float | None, str]:
    """Bytes of a step, or why there is no figure."""
    item = kv_item_bytes(facts)
    if weights is None:
        return None, "how many bytes the weights take is not told"
    if item is None:
        return None, "the type of the key-value cache is not told"
    on_device = tables_on_device(spec, facts)
    read = weights.read_bytes(spec.model, steps.rows, on_device is not False)
    if read is None:
        return None, "how much of the weights are experts is not told"
    cache = kv_step_bytes(spec.model, item, steps)
    if cache is None:
        return None, "how much of the context lies within a chunk or window is not told"
    return read + cache, ""


def _used(amount: float | None, roof: float | None, seconds: float) -> float | None:
    return amount / (seconds * roof) if amount is not None and roof else None


def verdict(
    mbu: float | None, mfu: float | None, utilisation: float | None, launching: float | None
) -> tuple[Bound | None, str]:
    """What holds a cell's decode steps back, from numbers alone, and which numbers.

    Near one roof (``NEAR`` or more of it): bound by that; near both: mixed. Near neither, and the GPU without a kernel
    in more than 1 - ``BUSY`` of the time, or launching alone ``LAUNCHING`` of a step: host-bound. Otherwise mixed:
    kernels that use neither. ``None`` where a roof is not known and the other is not near.
    """
    near_memory, near_compute = mbu is not None and mbu >= NEAR, mfu is not None and mfu >= NEAR
    near: dict[tuple[bool, bool], tuple[Bound, str]] = {
        (True, True): ("mixed", "near both roofs"),
        (True, False): ("bandwidth-bound", f"MBU at least {NEAR}"),
        (False, True): ("compute-bound", f"MFU at least {NEAR}"),
    }
    if (near_memory, near_compute) in near:
        return near[near_memory, near_compute]
    if mbu is None or mfu is None:
        return None, ""
    if utilisation is not None and utilisation < BUSY:
        return "host-bound", "no kernel runs in a fifth of the time or more"
    if launching is not None and launching >= LAUNCHING:
        return "host-bound", "launching alone takes half of a step or more"
    if utilisation is not None:
        return "mixed", "kernels run most of the time and come near neither roof"
    return "mixed", "near neither roof, and nothing says that the host is why"
