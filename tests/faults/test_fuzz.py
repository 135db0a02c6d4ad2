"""Whatever a file holds, its reader takes it or refuses it with the one typed error, in one line and in time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fuzz_readers import Found, Target, _read, fuzz, targets
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench_core.contract.errors import BadInput
from bench_core.contract.records import strict_yaml

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
QUICK = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Target]:
    return targets(tmp_path_factory.mktemp("fuzz"))


def test_spoiled_files_are_taken_or_refused(tmp_path: Path) -> None:
    """`make fuzz` reads 100,000."""
    counts, found = fuzz(2500, 20261123, tmp_path)
    assert found == []
    names = {line.partition(": ")[0] for line in counts}
    assert names == set(targets(tmp_path / "again"))
    assert sum(count for line, count in counts.items() if line.endswith("taken")) > 100, "inputs that are too wild"


def test_what_is_whole_is_taken(every: dict[str, Target]) -> None:
    """So that a spoilt value reaches the formulas behind a reader, not only its first check."""
    for name, target in every.items():
        if name != "image.yaml":  # of which some have no variant for a device
            for seed in target.seeds:
                target.read(seed)


@QUICK
@given(document=JSON, text=st.text(max_size=60), data=st.binary(max_size=60))
def test_documents_texts_and_bytes_that_nobody_thought_of(
    every: dict[str, Target], document: object, text: str, data: bytes
) -> None:
    found: list[Found] = []
    for name, target in every.items():
        if not name.endswith("of a folder"):
            for one in (json.dumps(document).encode(), text.encode("utf-8", "surrogatepass"), data):
                list(_read(name, target, one, found))
    assert found == []


def test_what_is_no_typed_error_would_be_found() -> None:
    def careless(_data: bytes) -> None:
        raise KeyError("a")

    def wordy(_data: bytes) -> None:
        raise BadInput("x") from None

    found: list[Found] = []
    assert list(_read("careless", Target(careless, (b"",)), b"x", found)) == []
    assert list(_read("wordy", Target(wordy, (b"",)), b"x", found)) == ["wordy: refused"]
    assert [one.what for one in found] == ["KeyError: 'a'"]


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("a: &a [1, 1]\n" + "".join(f"k{n}: [*a, *a]\n" for n in range(30)), "aliases"),
        ("a: " + "[" * 100_000, "nested deeper"),
        ("a: " + "x" * (strict_yaml.MAX_BYTES + 1), "larger than"),
    ],
    ids=["aliases", "depth", "size"],
)
def test_bombs_are_refused_before_they_grow(text: str, cause: str) -> None:
    with pytest.raises(BadInput, match=cause):
        strict_yaml.parse(text, "bomb")
