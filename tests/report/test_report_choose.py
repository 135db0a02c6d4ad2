"""The choice within limits: its rule by the cases that the page is held to as well, and both of its text forms."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_runs import CT2, VLLM, Script, write_run
from serving_runs import FAST, LoadScript, write_loaded
from typer.testing import CliRunner

from bench_core.contract.errors import BadInput
from bench_core.report.cli import app
from bench_core.report.decide.choose import LIMITS, Choice, Reason, Wanted, choose
from bench_core.report.decide.option import SATURATED, Option, Quantity, options_of
from bench_core.report.decide.ties import tied
from bench_core.report.decide.wanted import parse_wanted
from bench_core.report.decide.words import reason_words, wanted_words
from bench_core.runs.load import load_run

GIB = 2**30
PUBLISHED = Path(__file__).resolve().parents[2] / "results" / "published"
CASES = json.loads((Path(__file__).parent / "data" / "choices.json").read_text(encoding="utf-8"))
QUANTITIES = ("throughput_tok_s", "ttft_s", "tpot_s", "ttft_p99_s", "tpot_p99_s")


def option(found: dict[str, Any]) -> Option:
    """A cell of the file of cases."""
    told = {name: Quantity(**found[name]) if found[name] else None for name in QUANTITIES}
    words = {"image": "", "variant": "", "method": found["cell"], "point_words": found["point"], "cause": ""}
    return Option(**{**found, **told, **words, "remarks": tuple(found["remarks"])})


def answer(choice: Choice) -> dict[str, Any]:
    """A choice as the file has it."""
    return {
        "point": choice.point,
        "by": choice.by,
        "told": choice.told,
        "ranked": [[line.option.cell, line.tied, list(line.close)] for line in choice.ranked],
        "ruled_out": [
            [line.option.cell, [[r.key, r.value, r.limit, r.close] for r in line.reasons]] for line in choice.ruled_out
        ],
    }


def _rounded(found: Any) -> Any:
    """Numbers to 12 digits: an exponential function may differ in the last of another language's."""
    if isinstance(found, float):
        return float(f"{found:.12g}")
    if isinstance(found, list):
        return [_rounded(part) for part in found]
    return {name: _rounded(part) for name, part in found.items()} if isinstance(found, dict) else found


@pytest.mark.parametrize("case", CASES["cases"], ids=lambda case: case["name"])
def test_the_rule_gives_the_answers_that_the_page_gives(case: dict[str, Any]) -> None:
    options = [option(found) for found in CASES["options"][case["options"]]]
    if case["expected"] is None:
        with pytest.raises(BadInput):
            choose(options, Wanted(**case["wanted"]))
    else:
        assert _rounded(answer(choose(options, Wanted(**case["wanted"])))) == _rounded(case["expected"])


def test_the_cases_are_many_and_meet_every_reason() -> None:
    expected = [case["expected"] for case in CASES["cases"] if case["expected"]]
    assert len(expected) >= 40
    keys = {reason[0] for one in expected for _, reasons in one["ruled_out"] for reason in reasons}
    assert keys == {"outcome", "unranked", SATURATED, *LIMITS}


@pytest.mark.slow
@pytest.mark.parametrize("run", ["h100-llama2-7b", "2026-11-23-cpu-quality", "h200-serving"])
def test_cells_of_published_runs_are_those_of_the_file(run: str) -> None:
    """The file's numbers follow from the raw events."""
    kept = [option(found) for found in CASES["options"][run]]
    for ours, theirs in zip(options_of(load_run(PUBLISHED / run)), kept, strict=True):
        for name in CASES["options"][run][0]:
            assert getattr(ours, name) == getattr(theirs, name), (ours.cell, name)


# --- properties -------------------------------------------------------------------------------------------------------

_numbers = st.floats(0.01, 1e4)


@st.composite
def _quantities(draw: st.DrawFn) -> Quantity:
    value = draw(_numbers)
    if draw(st.booleans()):
        return Quantity(value)
    return Quantity(value, value - draw(st.floats(0, value)), value + draw(_numbers))


@st.composite
def _options(draw: st.DrawFn) -> list[Option]:
    found = []
    for index in range(draw(st.integers(1, 12))):
        size = draw(st.sampled_from([1, 4, 16]))
        pace = draw(st.none() | _quantities())
        found.append(
            Option(
                cell=f"m{index}", image="", variant="", method=f"m{index}", point=f"b{size}", point_words="",
                batch_size=size, concurrency=None, request_rate=None, outcome="ok" if pace else "oom_kv", cause="",
                unranked=draw(st.sampled_from(["", "", "disturbed"])), scripted=draw(st.integers(0, 5)) == 0,
                remarks=(), throughput_tok_s=pace, compared_tok_s=pace.value if pace else None,
                ttft_s=draw(st.none() | _quantities()), memory_bytes=draw(st.none() | st.integers(1, 10**12)),
            )
        )  # fmt: skip
    return found


_wanted = st.builds(
    Wanted,
    memory=st.none() | st.floats(1, 1e12),
    throughput_tok_s=st.none() | _numbers,
    ttft_s=st.none() | _numbers,
)


@given(_options(), _wanted)
def test_every_real_cell_of_the_point_is_ranked_or_ruled_out_once(options: list[Option], wanted: Wanted) -> None:
    found = choose(options, wanted)
    named = [*(line.option.cell for line in found.ranked), *(line.option.cell for line in found.ruled_out)]
    assert sorted(named) == sorted(o.cell for o in options if o.point == found.point and not o.scripted)
    paces = [line.option.compared_tok_s or 0 for line in found.ranked]
    assert paces == sorted(paces, reverse=True)
    for line in found.ranked:
        assert line.option.ranked
        assert wanted.memory is None or (line.option.memory_bytes or math.inf) <= wanted.memory
        assert wanted.ttft_s is None or (line.option.ttft_s is not None and line.option.ttft_s.value <= wanted.ttft_s)
        assert line.tied <= (found.told and line.option.throughput_tok_s is not None)
    assert all(line.reasons for line in found.ruled_out)
    assert not found.ranked or not found.ranked[0].tied


@given(_options(), _wanted)
def test_a_looser_limit_rules_nobody_else_out(options: list[Option], wanted: Wanted) -> None:
    point = options[0].point
    tight = choose(options, Wanted(point, memory=wanted.memory, ttft_s=wanted.ttft_s))
    loose = choose(options, Wanted(point, ttft_s=wanted.ttft_s))
    assert _cells(tight) <= _cells(loose)


def _cells(choice: Choice) -> set[str]:
    return {line.option.cell for line in choice.ranked}


@given(_quantities(), _quantities())
def test_a_tie_is_mutual_and_nobody_without_an_interval_has_one(one: Quantity, other: Quantity) -> None:
    assert tied(one, other) == tied(other, one)
    if one.low is None or other.low is None:
        assert not tied(one, other)
    else:
        assert tied(one, one)


@given(_numbers, _numbers, st.floats(0.01, 100), st.floats(0.01, 100))
def test_of_even_intervals_the_half_widths_decide(one: float, other: float, half: float, its: float) -> None:
    difference, allowed = abs(one - other), math.hypot(half, its)
    if not math.isclose(difference, allowed, rel_tol=1e-6):
        found = tied(Quantity(one, one - half, one + half), Quantity(other, other - its, other + its))
        assert found == (difference <= allowed)


# --- the text of limits -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", Wanted()),
        ("memory=24GiB,ttft_s=0.2,batch=16,quality=2%", Wanted("b16", memory=24 * GIB, ttft_s=0.2, quality=0.02)),
        (" memory = 24 GB , tpot_s = 20ms ", Wanted(memory=24e9, tpot_s=0.02)),
        ("memory=1.5MiB", Wanted(memory=1.5 * 2**20)),
        ("memory=512MB", Wanted(memory=512e6)),
        ("memory=77bytes", Wanted(memory=77)),
        ("concurrency=64,ttft_p99_s=1.5s", Wanted("c64", ttft_p99_s=1.5)),
        ("rate=0.5,tpot_p99_s=7ms", Wanted("r0_5", tpot_p99_s=0.007)),
        ("rate=8-constant", Wanted("r8-constant")),
        ("trace, ttft_s=0.2", Wanted("trace", ttft_s=0.2)),
        ("quality=7%,throughput_tok_s=1000", Wanted(quality=0.07, throughput_tok_s=1000)),
        ("quality=0", Wanted(quality=0)),
    ],
)
def test_limits_are_read(text: str, wanted: Wanted) -> None:
    assert parse_wanted(text) == wanted


@pytest.mark.parametrize(
    ("text", "cause", "hint"),
    [
        ("memry=24GiB", "memry: no limit", "did you mean memory?"),
        ("memory=24", "memory=24: not a limit", "GiB, GB, MiB, MB, bytes"),
        ("memory=24gib", "not a limit", "GiB"),
        ("memory", "needs a value", "memory=24GiB"),
        ("memory=", "needs a value", "memory=24GiB"),
        ("memory=0GiB", "nothing can keep", "above 0"),
        ("ttft_s=-1", "not a limit", "a number"),
        ("ttft_s=1e400", "not a limit", "s, ms"),
        ("ttft_s=" + "9" * 400, "nothing can keep", "above 0"),
        ("ttft_s=1,ttft_s=2", "ttft_s stands twice", "once"),
        ("batch=1,rate=2", "batch and rate", "one of them"),
        ("trace,rate=2", "rate and trace", "one of them"),
        ("trace=mine", "one trace at most", "ask for it as: trace"),
        ("batch=0", "not a batch size", "whole number"),
        ("batch=1.5", "not a batch size", "whole number"),
        ("concurrency=x", "not a load point", "whole number"),
        ("rate=0", "not a load point", "requests per second"),
        ("=3", ": no limit", "known"),
    ],
)
def test_what_is_no_limit_is_refused_with_a_hint(text: str, cause: str, hint: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse_wanted(text)
    assert cause in caught.value.cause
    assert hint in caught.value.hint


@given(st.text(max_size=40))
def test_any_text_is_limits_or_bad_input(text: str) -> None:
    with contextlib.suppress(BadInput):
        assert isinstance(parse_wanted(text), Wanted)


# --- words ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        (Reason("memory", 27.2 * GIB, 24 * GIB), "needs 27.2 GiB, 24 GiB allowed"),
        (Reason("memory", 24 * GIB + 10**6, 24 * GIB), "needs 24.001 GiB, 24 GiB allowed"),
        (Reason("throughput_tok_s", 1404.8, 2000), "1405 token/s, 2000 token/s wanted"),
        (Reason("ttft_s", 0.767, 0.2, close=True), "TTFT 0.767 s, 0.2 s allowed; its interval holds the limit"),
        (Reason("tpot_p99_s", None, 0.2), "p99 of TPOT not known"),
        (Reason("quality", None, 0.02), "quality not known"),
        (Reason("quality", 0.3759, 0.02), "perplexity 37.6 % above the reference's, 2 % allowed"),
        (Reason("outcome"), "oom_kv: no room for 64 prompts"),
        (Reason("unranked"), "not ranked: others took 2 CPUs"),
    ],
)
def test_reasons_in_words_have_the_number_and_the_limit(reason: Reason, words: str) -> None:
    made = {**CASES["options"]["made"][0], "outcome": "oom_kv", "unranked": "others took 2 CPUs"}
    cell = option(made)
    assert reason_words(Option(**{**vars(cell), "cause": "no room for 64 prompts"}), reason) == words


def test_what_is_wanted_in_words() -> None:
    wanted = parse_wanted("memory=24GiB,throughput_tok_s=1000,tpot_s=20ms,batch=16")
    assert wanted_words(wanted) == "memory at most 24 GiB, throughput at least 1000 token/s, TPOT at most 0.02 s"
    assert wanted_words(Wanted("b1")) == ""


# --- the terminal -----------------------------------------------------------------------------------------------------


def _asked(run: Path, *arguments: str) -> tuple[int, str]:
    ran = CliRunner().invoke(app, [str(run), *arguments])
    return ran.exit_code, " ".join(ran.output.split())


def _files(run: Path) -> Iterable[Path]:
    return sorted(run.rglob("*"))


def test_the_terminal_answers_and_writes_nothing(tmp_path: Path) -> None:
    """vLLM is faster; with four prompts both have 14 and 8 GiB beside the others' 0.6."""
    run = write_run(tmp_path, Script((VLLM, CT2), batch_sizes=(1, 4)))
    before = _files(run)
    code, text = _asked(run, "--choose", "batch=4", "--gpu-hour-price", "3.6", "--currency", "EUR")
    assert code == 0
    assert text.index("vLLM fp16") < text.index("CTranslate2 int8_float16")
    assert "million tokens" in text
    assert "Ruled out" not in text
    code, text = _asked(run, "--choose", "batch=4,memory=9GiB")
    assert code == 0
    assert text.index("CTranslate2 int8_float16") < text.index("Ruled out") < text.index("vLLM fp16")
    assert "GiB, 9 GiB allowed" in text
    code, text = _asked(run, "--choose", "memory=1GiB")
    assert code == 1
    assert text.startswith("No method is within the limits at batch size 4 (memory at most 1 GiB).")
    assert _files(run) == before


def test_the_terminal_says_which_point_it_took_and_refuses_what_is_not_there(tmp_path: Path) -> None:
    run = write_run(tmp_path, Script((VLLM, CT2), batch_sizes=(1, 4)))
    assert "Batch size 4 gives most within the limits." in _asked(run, "--choose", "ttft_s=10")[1]
    code, text = _asked(run, "--choose", "batch=2")
    assert (code, "batch=1, batch=4" in text) == (2, True)
    for other in (["--check"], ["--out", str(tmp_path / "x")], ["--publish", str(tmp_path / "y")]):
        assert _asked(run, "--choose", "batch=1", *other)[0] == 2


@pytest.mark.parametrize(
    ("unused_gib", "words"),
    [
        (57.5, "needs 67.9 GiB, 24 GiB allowed; it reserved 57.5 GiB of that and did not use it"),
        (40.0, "needs 67.9 GiB, 24 GiB allowed"),
        (None, "needs 67.9 GiB, 24 GiB allowed"),
    ],
)
def test_what_a_pool_reserved_and_did_not_use_is_said_where_the_rest_is_within_the_limit(
    unused_gib: float | None, words: str
) -> None:
    """It stays ruled out: with a smaller pool it was not measured."""
    made = vars(option({**CASES["options"]["made"][0]}))
    unused = None if unused_gib is None else int(unused_gib * GIB)
    cell = Option(**{**made, "memory_bytes": int(67.9 * GIB), "unused_bytes": unused})
    (out,) = choose([cell], Wanted(point=cell.point, memory=24 * GIB)).ruled_out
    assert reason_words(cell, out.reasons[0]) == words


def test_under_load_without_a_gpu_memory_is_the_server_s(tmp_path: Path) -> None:
    """710 MiB resident; on a GPU it is what the device had in use, 9100 MiB."""
    for device, mib in (("cpu", 710), ("cuda", 9100)):
        run = write_loaded(tmp_path / device, LoadScript(engines=(FAST,), loads=("c4",), device=device))
        (cell,) = options_of(load_run(run))
        assert cell.memory_bytes == mib * 2**20
        assert _asked(run, "--choose", "memory=8GiB")[0] == (0 if device == "cpu" else 1)
