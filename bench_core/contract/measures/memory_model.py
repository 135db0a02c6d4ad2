"""What a cell's memory should be, from the architecture: weights, key-value cache, and the rest in its known parts."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from bench_core.contract.measures.cell import CellMetrics
from bench_core.contract.measures.min_memory import MinMemory
from bench_core.contract.measures.roofline import (
    ITEM_BYTES,
    compute_dtype,
    kv_item_bytes,
    tables_on_device,
    told_bytes,
    weights_in_memory,
)
from bench_core.contract.models.model import ModelInfo
from bench_core.contract.models.model_work import decoder_of, kv_cache_bytes
from bench_core.contract.records.device_rates import Roofs
from bench_core.contract.records.record import Record
from bench_core.contract.records.spec import CellSpec


class MemoryExplained(Record):
    """Predicted and measured memory of a cell on a GPU, bytes.

    Attributes:
        weights_bytes: as they lie on the device; see :func:`~bench_core.contract.measures.roofline.weights_in_memory`.
        kv_cache_bytes: of the batch that needs most, as the engine lays it out; see :func:`cache_tokens`.
        context_bytes: that a process holds before it has data, measured on this GPU in this run; ``None`` without that
            measurement, and then it is part of what stays unexplained.
        activations_bytes: of reading the largest batch's prompts in one piece; an engine that reads them in parts
            needs less.
        graphs_bytes: of recorded CUDA graphs, where the engine tells (``cuda_graphs_bytes``).
        predicted_bytes: the sum.
        measured_bytes: peak in use on the GPU less what was in use before loading; of the trial with the smallest
            budget that sustained, where such a search was made (``at_smallest_budget``).
        unexplained_bytes: measured - predicted; ``difference``: the same / measured.
    """

    weights_bytes: float = Field(gt=0)
    kv_cache_bytes: float
    context_bytes: int | None
    activations_bytes: float
    graphs_bytes: int | None = None
    predicted_bytes: float
    measured_bytes: float
    at_smallest_budget: bool = False
    unexplained_bytes: float
    difference: float


def activations_bytes(model: ModelInfo, item_bytes: float, tokens: float, rows: float) -> float:
    """The widest moment of reading ``tokens`` prompt tokens of ``rows`` rows at once: in the MLP, where the residual,
    its norm, gate, up and their product live together; and each row's last logits, in the dtype and in float32."""
    widest = tokens * (2 * model.hidden_size + 3 * model.intermediate_size) * item_bytes
    return widest + rows * model.vocab_size * (item_bytes + 4)


def cache_tokens(facts: Mapping[str, str], metrics: CellMetrics) -> int | None:
    """Positions of the key-value cache that the engine keeps for the batch that needs most of them.

    By what it says: ``kv_positions``, the number that it has made room for; or ``kv_layout``: ``rectangle`` (every row
    as long as the longest, to the batch's end), ``shrinking`` (rows that have ended leave the rectangle), ``paged``
    (each row what it holds). A rectangle where it says nothing.
    """
    made = told_bytes(facts.get("kv_positions"))
    if made is not None:
        return made
    layout = facts.get("kv_layout")
    if layout == "paged":
        return metrics.held_batch_tokens
    return metrics.shrinking_batch_tokens if layout == "shrinking" else metrics.longest_batch_tokens


def is_layout_told(spec: CellSpec, facts: Mapping[str, str]) -> bool:
    """Whether it is known how an engine lays out its cache. All ways are the same for one row, and the fact ``cache``
    names a rectangle in older records."""
    told = ("kv_positions", "kv_layout", "cache")
    return spec.batch_size == 1 or any(name in facts for name in told)


def _cache_bytes(spec: CellSpec, facts: Mapping[str, str], item: float, tokens: int, rows: int) -> float | None:
    """Of so many positions; ``None`` where layers have windows and rows that differ in length are not padded."""
    if decoder_of(spec.model).longest_window is not None and facts.get("kv_layout") in ("paged", "shrinking"):
        return kv_cache_bytes(spec.model, item, tokens) if rows == 1 else None
    return kv_cache_bytes(spec.model, item, tokens, rows)


def explain_memory(
    spec: CellSpec,
    facts: Mapping[str, str],
    metrics: CellMetrics,
    device_rates: Roofs | None,
    search: MinMemory | None,
) -> MemoryExplained | None:
    """``None`` off a GPU, for a scripted engine, a mixture of experts or layers that are not known; where the engine
    does not say in what it computes, how it lays out its cache or where its embeddings lie; or where it reserves more
    than the cell needs and no smallest budget is known."""
    decoder, on_device = decoder_of(spec.model), tables_on_device(spec, facts)
    weights, kv_item = weights_in_memory(spec, facts), kv_item_bytes(facts)
    trial = search.at_smallest if search is not None else None
    use, tokens = metrics.device_memory, cache_tokens(facts, metrics)
    if trial is not None and trial.cache_tokens is not None:
        tokens = trial.cache_tokens
    if use is None or use.peak_bytes is None or tokens is None or weights is None or kv_item is None:
        return None
    if decoder.problem or decoder.experts or on_device is None or not is_layout_told(spec, facts):
        return None
    dtype = compute_dtype(facts)
    item = ITEM_BYTES.get("float32" if dtype == "tf32" else dtype or "", kv_item)
    cache = _cache_bytes(spec, facts, kv_item, tokens, spec.batch_size)
    if cache is None:
        return None
    on_gpu = weights.on_device(spec.model, on_device)
    read = metrics.prompt_tokens / metrics.batches
    if trial is not None and trial.prompt_tokens is not None:
        read = trial.prompt_tokens
    activations = activations_bytes(spec.model, item, read, metrics.rows / metrics.batches)
    context = device_rates.context_bytes if device_rates is not None else None
    graphs = told_bytes(facts.get("cuda_graphs_bytes"))
    predicted = on_gpu + cache + activations + (context or 0) + (graphs or 0)
    if trial is None and (metrics.reserved_bytes or 0) > weights.total_bytes + cache:
        return None
    peak = trial.device_peak_bytes if trial is not None and trial.device_peak_bytes is not None else None
    measured = (use.peak_bytes if peak is None else peak) - (use.baseline_bytes or 0)
    if measured <= 0:
        return None
    return MemoryExplained(
        weights_bytes=on_gpu,
        kv_cache_bytes=cache,
        context_bytes=context,
        activations_bytes=activations,
        graphs_bytes=graphs,
        predicted_bytes=predicted,
        measured_bytes=measured,
        at_smallest_budget=peak is not None,
        unexplained_bytes=measured - predicted,
        difference=(measured - predicted) / measured,
    )
