"""Every number that is read has a bound: one beyond it is refused where it stands, and none meets a formula."""

from __future__ import annotations

import importlib
import json
import math
import pkgutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import bench_core
from bench_core.contract.errors import BadInput
from bench_core.contract.measures.cell import CellEvents, summarise
from bench_core.contract.models.stored_weights import stored_weights
from bench_core.contract.records import strict_yaml
from bench_core.contract.records.artifact import ArtifactRecord
from bench_core.contract.records.artifact_form import other_form
from bench_core.contract.records.events import parse_event, parse_events
from bench_core.contract.records.record import LARGEST_FLOAT, LARGEST_INT, SMALLEST_INT, Record, Scalar

BATCH = {
    "type": "batch", "phase": "measure", "index": 0, "prompts": [0], "prompts_digest": "d", "prompt_tokens": [2],
    "started_s": 1.5, "latency_s": 0.5, "outputs": [[7, 8]],
}  # fmt: skip


class Deep(Record):
    """Numbers in every kind of place."""

    plain: int = 0
    maybe: int | None = None
    many: dict[str, tuple[int, ...]] = {}
    fraction: float | None = None
    scalar: Scalar = None


def _records() -> Iterator[type[Record]]:
    for module in pkgutil.walk_packages(bench_core.__path__, "bench_core."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    waiting = [Record]
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        yield kind


def _numbers(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        if schema.get("type") in ("int", "float"):
            yield schema
        for part in schema.values():
            yield from _numbers(part)
    elif isinstance(schema, (list, tuple)):
        for part in schema:
            yield from _numbers(part)


def test_every_number_of_every_record_is_bounded_on_both_sides() -> None:
    seen = 0
    for kind in _records():
        kind.model_rebuild()  # built when one is read, else
        for number in _numbers(kind.__pydantic_core_schema__):
            low, high = (next(number[key] for key in keys if key in number) for keys in (("ge", "gt"), ("le", "lt")))
            assert -LARGEST_FLOAT <= SMALLEST_INT <= low if number["type"] == "int" else low >= -LARGEST_FLOAT, kind
            assert high <= LARGEST_INT + ("lt" in number) if number["type"] == "int" else high <= LARGEST_FLOAT, kind
            seen += 1
    assert seen > 200


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ('{"plain": 9223372036854775808}', "plain: "),
        ('{"plain": -9223372036854775809}', "plain: "),
        ('{"maybe": 18446744073709551616}', "maybe: "),
        ('{"many": {"a": [1, 9223372036854775808]}}', "many.a.1: "),
        ('{"fraction": 1e31}', "fraction: "),
        ('{"fraction": -1e308}', "fraction: "),
        ('{"fraction": 1e999}', "fraction: "),
        ('{"fraction": NaN}', "fraction: "),
        ('{"scalar": 9223372036854775808000000000000}', "scalar."),
        ('{"scalar": Infinity}', "scalar."),
        ('{"plain": ' + "9" * 5000 + "}", "line 1 column"),
        ('{"many": ' + "[" * 100_000, "line 1 column"),
    ],
)
def test_a_number_beyond_its_bounds_is_refused_with_its_key(text: str, where: str) -> None:
    with pytest.raises(BadInput) as caught:
        Deep.parse(text, "some.json")
    assert caught.value.cause.startswith("some.json: ")
    assert where in caught.value.cause
    assert len(caught.value.cause) < 600


def test_numbers_at_their_bounds_are_read() -> None:
    text = json.dumps({"plain": LARGEST_INT, "maybe": SMALLEST_INT, "fraction": LARGEST_FLOAT, "scalar": LARGEST_INT})
    assert Deep.parse(text, "x") == Deep(
        plain=LARGEST_INT, maybe=SMALLEST_INT, fraction=LARGEST_FLOAT, scalar=LARGEST_INT
    )


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"outputs": [[7, 2**63]]}, "batch.outputs.0.1"),
        ({"outputs": [[7, -(2**70)]]}, "batch.outputs.0.1"),
        ({"prompts": [-1]}, "batch.prompts.0"),
        ({"prompt_tokens": [2**64]}, "batch.prompt_tokens.0"),
        ({"started_s": 1e308}, "batch.started_s"),
        ({"started_s": -1.0}, "batch.started_s"),
        ({"latency_s": 5e-324}, "batch.latency_s"),
        ({"latency_s": math.inf}, "batch.latency_s"),
    ],
)
def test_an_event_with_such_a_number_is_refused_with_its_line_and_key(change: dict[str, Any], where: str) -> None:
    lines = [json.dumps(BATCH), json.dumps({**BATCH, **change})]
    with pytest.raises(BadInput, match=f"^log:2: {where}: "):
        list(parse_events(lines, "log"))
    assert parse_event(lines[0], "log")


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("a: 1\nb: 9223372036854775808\n", "y:2: b: 9223372036854775808: more than 63 bits"),
        ("a:\n  - 1\n  - 0x" + "f" * 40, "y:3: a.1: "),
        ("a: " + "9" * 5000, "y:1: a: "),
        ("a: {? " + "9" * 5000 + " : 1}", "y:1: a."),
        ("a: 0b" + "1" * 64, "more than 63 bits"),
        ("a: .inf", "y:1: a: .inf: no finite number"),
        ("a: -.inf", "no finite number"),
        ("a: .nan", "no finite number"),
        ("a: 1.0e+31", "beyond 1e+30"),
        ("a: !!int x", "y:1: a: x: is no int"),
        ("a: !!float ''", "is no float"),
    ],
)
def test_a_number_of_a_yaml_file_is_refused_with_its_line_and_key(text: str, cause: str) -> None:
    with pytest.raises(BadInput) as caught:
        strict_yaml.parse(text, "y")
    assert cause in caught.value.cause
    assert len(caught.value.cause) < 200


def test_numbers_of_a_yaml_file_within_their_bounds_are_read() -> None:
    text = "a: 9223372036854775807\nb: -9223372036854775808\nc: 1_000\nd: 0x10\ne: 1.5e+3\nf: 1e400\n"
    found = strict_yaml.parse(text, "y").content
    assert found == {"a": LARGEST_INT, "b": SMALLEST_INT, "c": 1000, "d": 16, "e": 1500.0, "f": "1e400"}


@pytest.mark.parametrize("bits", [10**400, -(10**400), 1e308, math.inf, math.nan])
def test_bits_of_a_quantisation_may_be_any_number(tmp_path: Path, bits: float) -> None:
    settings = {"quant_method": "gptq", "bits": bits}
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": settings}))
    found = other_form(tmp_path, "gptq-int4-g128")
    assert found is not None
    assert found.startswith("gptq of ")


@pytest.mark.parametrize(
    "header",
    [
        {"a.weight": {"data_offsets": [0, 2**70]}},
        {"a.weight": {"data_offsets": [0, 1e308]}},
        {"a.weight": {"data_offsets": [-5, 4]}},
        {"a.weight": {"data_offsets": [4, 0]}},
        {"a.weight": {"data_offsets": []}},
        {"a.weight": {"data_offsets": 4}},
        {"a.weight": []},
        ["a.weight"],
        "[" * 100_000,
        '{"a.weight": ' + "9" * 5000 + "}",
    ],
)
def test_bytes_of_weights_are_those_of_the_file_where_its_header_says_more(tmp_path: Path, header: object) -> None:
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"1234")
    record = ArtifactRecord.of_folder(
        tmp_path, artifact="hf", source_digest="0", converter_digest="r", made_by="m", seconds=1.0, facts={}
    )
    found = stored_weights(tmp_path, record)
    assert found is not None
    assert (found.total_bytes, found.embedding_bytes) == (path.stat().st_size, None)


def test_numbers_from_which_none_follows_are_refused_like_any_damage() -> None:
    """Each within its bounds, but the second batch begins long before the first: no time lies between its samples."""
    start = {"type": "start", "t_s": 0.0, "wall_time_utc": "2026-11-29T00:00:00Z", "versions": {}, "host": {}}
    first, second = {**BATCH, "started_s": 9000.0}, {**BATCH, "index": 1}
    samples = {"type": "telemetry", "t_s": [1.6], "rss_bytes": [1], "energy_mj": [5]}
    end = {"type": "end", "t_s": 3.0, "outcome": "ok"}
    events = CellEvents()
    for event in parse_events([json.dumps(line) for line in (start, first, second, samples, end)], "log"):
        events.add(event)
    with pytest.raises(BadInput, match=r"^c: no number follows from the event log: "):
        summarise("c", events)
