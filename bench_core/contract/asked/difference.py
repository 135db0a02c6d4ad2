"""In what two records of one kind differ, but for the fields that are declared as such that may."""

from __future__ import annotations

from collections.abc import Iterator

from bench_core.contract.asked.declaration import fields_that_may_differ
from bench_core.contract.records.record import Record

Difference = tuple[str, object, object]


def differences(had: Record, now: Record) -> Iterator[Difference]:
    """(name, had, now) of every such field; records within them are gone into, and so are maps."""
    compared = type(had).model_fields.keys() - fields_that_may_differ(type(had))
    for name in (name for name in type(had).model_fields if name in compared):
        one, other = getattr(had, name), getattr(now, name)
        if one == other:
            continue
        if isinstance(one, Record) and isinstance(other, Record):
            yield from differences(one, other)
        elif isinstance(one, dict) and isinstance(other, dict):
            keys = sorted(one.keys() | other.keys())
            yield from (
                (f"{name}.{key}", one.get(key), other.get(key)) for key in keys if one.get(key) != other.get(key)
            )
        else:
            yield name, one, other
