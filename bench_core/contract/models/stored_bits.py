"""Bits that a weight really takes, beside those that a method's name says."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from bench_core.contract.measures.roofline import ITEM_BYTES, compute_dtype, told_bytes
from bench_core.contract.records import layout
from bench_core.contract.records.record import Record
from bench_core.contract.records.spec import CellSpec

# From a quarter above the name on, a title says what is stored: more than scales and zero points of a common group.
TOLD_FROM = 1.25
_BITS_IN_A_TITLE = re.compile(r"(?<![\w.])(\d{1,2}(?:\.\d+)?)[- ]bits?\b")


class StoredBits(Record):
    """Bits of all weights, with scales, zero points and orders of groups / number of the model's weights.

    Attributes:
        per_weight: bits.
        source: ``artifact``: by the headers of the file that the engine reads; ``engine``: of the tensors that it holds
            and tells the size of, for engines that quantise or convert while they load; ``dtype``: such an engine tells
            only what it computes in.
    """

    per_weight: float = Field(gt=0)
    source: Literal["artifact", "engine", "dtype"]


def stored_bits(spec: CellSpec, facts: Mapping[str, str]) -> StoredBits | None:
    """Of one cell; ``None`` where nothing tells it: a scripted engine, an engine that did not load, an old record.

    Args:
        facts: what the engine told; empty where it did not load.
    """
    parameters = spec.model.parameters
    if spec.artifact == layout.NO_ARTIFACT:
        return None
    told = told_bytes(facts.get("weights_bytes"))
    if told is not None:
        return StoredBits(per_weight=told * 8 / parameters, source="engine")
    if spec.artifact == layout.HF_ARTIFACT:  # what the file holds is not what such an engine computes with
        dtype = compute_dtype(facts)
        item = ITEM_BYTES.get("float32" if dtype == "tf32" else dtype or "")
        return StoredBits(per_weight=item * 8, source="dtype") if item else None
    if spec.weights is None:
        return None
    return StoredBits(per_weight=spec.weights.total_bytes * 8 / parameters, source="artifact")


def bits_in_title(title: str) -> float | None:
    """The bits that a title says, for records of before variants declared them."""
    found = _BITS_IN_A_TITLE.search(title)
    return float(found[1]) if found and float(found[1]) > 0 else None


def title_with_bits(title: str, named: float | None, stored: StoredBits | None) -> str:
    """The title, and behind it what is stored where that is a quarter or more above what is named."""
    if named is None or stored is None or stored.per_weight < TOLD_FROM * named:
        return title
    held = "held" if stored.source == "engine" else "stored"
    return f"{title}, {stored.per_weight:.1f} bits {held}"
