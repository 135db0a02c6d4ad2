"""The first sentences of a report, and that they agree with its tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from report_runs import CT2, MODEL, VLLM, Method, Script, cell_path, fields, set_latencies, write_run
from serving_runs import FAST, SCRIPTED, SLOW, LoadScript, write_loaded

from bench_core.contract.records.outcome import Outcome
from bench_core.contract.serving.capacity import Capacity
from bench_core.contract.serving.protocol import Limits
from bench_core.report.decide.choose import Wanted, choose
from bench_core.report.decide.option import options_of
from bench_core.report.decide.verdict import choice_sentences, verdict
from bench_core.report.document import document
from bench_core.report.explain.same_batches import fastest
from bench_core.report.tables.glance import fastest_lines
from bench_core.report.write.markdown import markdown
from bench_core.runs.load import load_run
from bench_core.runs.view import RunView

TRAINED = MODEL.model_copy(update={"synthetic": False})
REFERENCE = Method("ref", "fp32", "Reference", reference=0, nll_nat_per_token=2.0)
NEAR = replace(VLLM, nll_nat_per_token=2.01)
FAR = replace(CT2, nll_nat_per_token=2.3)
PUBLISHED = sorted(path.parent for path in (Path(__file__).parents[2] / "results" / "published").glob("*/run.json"))


def _run(root: Path, latencies: Sequence[tuple[Method, float]], **changes: object) -> RunView:
    """A run at batch size 1 with these latencies, each known to some 0.3 %."""
    settings = {"batch_sizes": (1,), "batches": 8, **changes}
    run = write_run(root, Script(tuple(method for method, _ in latencies), **settings))  # type: ignore[arg-type]
    for method, latency_s in latencies:
        set_latencies(cell_path(run, method, 1), [latency_s * 0.999, latency_s * 1.001] * 4)
    return load_run(run)


def test_by_how_much_the_first_leads_and_how_sure_that_is(tmp_path: Path) -> None:
    """20 tokens in 0.1 s are 200 token/s, in 0.125 s 160: 25 % more."""
    first, last = verdict(_run(tmp_path, [(VLLM, 0.1), (CT2, 0.125)])).sentences
    assert first.startswith("At batch size 1, vLLM fp16 is the fastest with 200.0 ± ")
    assert ", 25.0 ± 0." in first
    assert first.endswith(" % faster than the next, CTranslate2 int8_float16.")
    assert last == "The ± is half of a 95 % interval."


def test_a_tie_is_said_to_be_one(tmp_path: Path) -> None:
    first, *_ = verdict(_run(tmp_path, [(VLLM, 0.1), (CT2, 0.1001)])).sentences
    assert first.endswith(" token/s, statistically tied with CTranslate2 int8_float16.")


def test_of_too_few_batches_it_is_not_known_how_sure_it_is(tmp_path: Path) -> None:
    view = load_run(write_run(tmp_path, Script((VLLM, CT2), batch_sizes=(1, 4, 16))))
    sentences = verdict(view).sentences
    assert [sentence.split(",")[0] for sentence in sentences] == ["At batch size 1", "At batch size 16"]
    assert all(s.endswith("whether others are tied with it is not known (few batches).") for s in sentences)


def test_the_fastest_names_the_quality_that_it_costs(tmp_path: Path) -> None:
    """exp(2.3) = 9.974, exp(2.0) = 7.389; the second is 1 % above the reference, exp(2.01) = 7.463."""
    view = _run(tmp_path, [(FAR, 0.1), (NEAR, 0.125), (REFERENCE, 0.2)], model=TRAINED)
    first, cost, near, *_ = verdict(view).sentences
    assert first.startswith("At batch size 1, CTranslate2 int8_float16 is the fastest with 200.0 ± ")
    assert cost == "Its perplexity is 9.974, the reference has 7.389."
    assert near.startswith("Within 2 % of the reference's quality, vLLM fp16 is the fastest with 160.0 ± ")
    assert near.endswith(" % faster than the next, Reference.")
    line, second = fastest_lines(view)
    assert "(perplexity 9.974, the reference has 7.389); statistically tied with it: none" in line
    assert second.startswith("Fastest at batch size 1 within 2 % of the reference's quality: vLLM fp16: 160.0 ± ")
    (row,) = fields(document(view).glance[0])
    assert row["Fastest (token/s)"].endswith("(perplexity 9.974, the reference has 7.389)")
    assert row["Fastest within 2 % of the reference's quality (token/s)"].startswith("vLLM fp16: 160.0 ± ")


def test_a_fastest_near_the_reference_needs_no_second(tmp_path: Path) -> None:
    view = _run(tmp_path, [(NEAR, 0.1), (FAR, 0.125), (REFERENCE, 0.2)], model=TRAINED)
    assert verdict(view).sentences[1:] == (
        "Its perplexity is 7.463, within 2 % of the reference's 7.389.",
        "The ± is half of a 95 % interval.",
    )
    reference = _run(tmp_path / "r", [(REFERENCE, 0.1), (FAR, 0.125)], model=TRAINED)
    assert "Its perplexity is the reference's, 7.389." in verdict(reference).sentences


def test_random_weights_have_no_quality(tmp_path: Path) -> None:
    view = _run(tmp_path, [(FAR, 0.1), (NEAR, 0.125), (REFERENCE, 0.2)])
    text = " ".join(verdict(view).sentences) + " ".join(fastest_lines(view))
    assert "erplexity" not in text
    assert "quality" not in text
    assert all(option.nll_increase is None and option.perplexity is None for option in options_of(view))
    assert "Fastest within" not in markdown(document(view))


def test_where_nothing_can_be_ranked_that_is_said(tmp_path: Path) -> None:
    dead = replace(VLLM, dies={1: (Outcome.LOAD_FAILED, "no such file")})
    scripted = Method("null", "scripted", "null scripted", ranked=False)
    for name, methods, words in (
        ("a", (dead,), "No method is ranked: no cell has numbers."),
        ("b", (dead, scripted), "No method is ranked: only a scripted engine has numbers."),
    ):
        view = load_run(write_run(tmp_path / name, Script(methods, batch_sizes=(1,))))
        assert verdict(view).sentences == (words,)
        assert markdown(document(view)).splitlines()[2] == words
    alone = verdict(load_run(write_run(tmp_path / "c", Script((VLLM, scripted), batch_sizes=(1,))))).sentences
    assert alone == ("vLLM fp16 is the only method that is ranked: 158.7 token/s at batch size 1.",)


def test_under_load_each_kind_of_load_and_the_limits(tmp_path: Path) -> None:
    sentences = verdict(load_run(write_loaded(tmp_path, LoadScript(engines=(FAST, SLOW, SCRIPTED))))).sentences
    assert sentences[0].startswith("At concurrency 4, vLLM fp16 is the fastest with 4")
    assert sentences[1].startswith("At 20 requests/s, vLLM fp16 is the soonest with 3")
    assert " ms to the first token (median), " in sentences[1]
    assert sentences[2].startswith("Within TTFT at most 0.2 s, TPOT at most 0.03 s, vLLM fp16 serves most: ")
    assert not any("null" in sentence for sentence in sentences)


@pytest.mark.parametrize(
    ("varied", "highest", "load"),
    [
        ("request_rate", 16, "16 requests/s"),
        ("concurrency", 64, "64 requests at once or more"),
        ("request_rate", None, None),
    ],
)
def test_a_search_for_the_highest_load_tells_what_is_kept(
    tmp_path: Path, varied: str, highest: float | None, load: str | None
) -> None:
    found = Capacity(
        image="vllm", variant="fp16", varied=varied, limits=Limits(ttft_s=0.2), conditions={}, limit=64, highest=highest
    )  # fmt: skip
    view = replace(load_run(write_loaded(tmp_path, LoadScript(loads=("c4",)))), capacities=(found,))
    kept = f"vLLM fp16 keeps: {load}." if load else "no method is known to keep any load that was tried."
    assert f"Within TTFT at most 0.2 s, for 99 % of requests, {kept}" in verdict(view).sentences


def test_each_point_has_sentences_of_its_own(tmp_path: Path) -> None:
    """At 1 the far method is first, at 4 the near one; at 16 nothing has numbers. The report's first sentences are
    those of the smallest and the largest point at which somebody is ranked."""
    near = replace(NEAR, dies={16: (Outcome.CRASHED, "gone")})
    far = replace(FAR, dies={16: (Outcome.CRASHED, "gone")})
    reference = replace(REFERENCE, dies={16: (Outcome.CRASHED, "gone")})
    methods = (far, near, reference)
    run = write_run(tmp_path, Script(methods, batch_sizes=(1, 4, 16), batches=8, model=TRAINED))
    for size, latencies in ((1, (0.1, 0.125, 0.2)), (4, (0.125, 0.1, 0.2))):
        for method, latency_s in zip(methods, latencies, strict=True):
            set_latencies(cell_path(run, method, size), [latency_s * 0.999, latency_s * 1.001] * 4)
    found = verdict(load_run(run))
    assert list(found.at) == ["b1", "b4", "b16"]
    first, cost, near_by, plus_minus = found.at["b1"]
    assert first.startswith("At batch size 1, CTranslate2 int8_float16 is the fastest with 200.0 ± ")
    assert cost == "Its perplexity is 9.974, the reference has 7.389."
    assert near_by.startswith("Within 2 % of the reference's quality, vLLM fp16 is the fastest with 160.0 ± ")
    assert found.at["b4"][0].startswith("At batch size 4, vLLM fp16 is the fastest with 800")
    assert found.at["b4"][1:] == ("Its perplexity is 7.463, within 2 % of the reference's 7.389.", plus_minus)
    assert found.at["b16"] == ("At batch size 16, no method is ranked: no cell has numbers.",)
    assert found.sentences == (first, cost, near_by, *found.at["b4"])


def test_a_method_that_is_ranked_between_the_ends_alone_is_not_passed_over(tmp_path: Path) -> None:
    """At the smallest and the largest batch size one method has numbers; it is not the only one of the run."""
    gone = dict.fromkeys((1, 16), (Outcome.CRASHED, "gone"))
    script = Script((VLLM, replace(CT2, dies=gone)), batch_sizes=(1, 4, 16))
    sentences = verdict(load_run(write_run(tmp_path, script))).sentences
    assert [sentence.split(", with ")[0] for sentence in sentences] == [
        "At batch size 1, vLLM fp16 is the only method that is ranked",
        "At batch size 16, vLLM fp16 is the only method that is ranked",
    ]


def test_an_answer_within_limits_is_said_of_them(tmp_path: Path) -> None:
    view = _run(tmp_path, [(FAR, 0.1), (NEAR, 0.125), (REFERENCE, 0.2)], model=TRAINED)
    options = options_of(view)

    def said(**limits: float) -> tuple[str, ...]:
        wanted = Wanted("b1", **limits)
        return choice_sentences(options, choose(options, wanted), wanted)

    assert said() == verdict(view).at["b1"]
    within = "within perplexity above the reference's at most 2 %"
    first, cost, _ = said(quality=0.02)
    assert first.startswith(f"At batch size 1, {within}, vLLM fp16 is the fastest with 160.0 ± ")
    assert cost == "Its perplexity is 7.463, within 2 % of the reference's 7.389."
    alone, _, _ = said(throughput_tok_s=190)
    assert alone.startswith("At batch size 1, within throughput at least 190 token/s, CTranslate2 int8_float16 is the ")
    assert " is the only method, with 200.0 ± " in alone
    assert said(memory=1.0) == ("No method is within the limits at batch size 1 (memory at most 9.31323e-10 GiB).",)


@pytest.mark.slow
@pytest.mark.parametrize("run", PUBLISHED, ids=lambda path: path.name)
def test_verdict_choice_and_bold_name_the_same_method(run: Path) -> None:
    view = load_run(run)
    options = options_of(view)
    found = verdict(view)
    assert found.sentences
    for point, said in found.at.items():
        ranked = choose(options, Wanted(point)).ranked
        assert said[0].startswith(f"At {choose(options, Wanted(point)).point_words}, ")
        assert (ranked[0].option.method if ranked else "no method is ranked") in said[0]
    if len({line.option.method for choice in found.choices for line in choice.ranked}) > 1:
        for choice in found.choices:
            assert found.at[choice.point][0] in found.sentences
    for size in view.batch_sizes:
        leads = fastest(view, view.of_batch_size(size))
        ranked = choose(options, Wanted(f"b{size}")).ranked
        assert {line.option.cell for line in ranked[:1]} <= leads
        assert bool(ranked) == bool(leads)
