"""What is told before anything is built: each build with its size and time, and the time of everything."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import click
import pytest

from bench_core.contract.records.artifact import ArtifactRecord
from bench_core.drive.ask.request import Modes, Suite
from bench_core.drive.plan.builds import MEASURED_ELSEWHERE, Build, BuildCost, BuildCosts, BuildLog, Expected
from bench_core.drive.plan.catalogue import Catalogue
from bench_core.drive.plan.effort import Effort, earlier_rate
from bench_core.drive.plan.estimate import (
    artifact_bytes,
    conversion_bytes,
    conversion_estimate_s,
    measuring_estimate_s,
    preparing_estimate_s,
)
from bench_core.drive.plan.plan import make_plan
from bench_core.drive.run.news import News

TORCH = Build("torch:cpu", "pins of today")


def log(folder: Path, elsewhere: dict[str, BuildCost] | None = None) -> BuildLog:
    (folder / "elsewhere.json").write_text(BuildCosts(builds=elsewhere or {}).to_json(), encoding="utf-8")
    return BuildLog(folder / "here.json", folder / "elsewhere.json")


def seconds(log: BuildLog, build: Build) -> tuple[float, bool]:
    (expected,), unknown = log.expected([build, build])  # each is built once
    assert unknown == []
    return expected.seconds, expected.here


def test_before_the_first_build_it_is_what_was_measured_elsewhere(tmp_path: Path) -> None:
    kept = log(tmp_path, {"torch:cpu": BuildCost(size_bytes=900, whole_s=40.0, again_s=5.0)})
    assert seconds(kept, TORCH) == (40.0, False)
    kept.keep(TORCH, 1000, 90.0, cached=False)
    assert seconds(kept, TORCH) == (5.0, True)  # the same packages: they are in the cache of layers
    assert seconds(kept, Build("torch:cpu", "pins of tomorrow")) == (90.0, True)


def test_a_build_that_found_its_packages_says_nothing_of_one_that_does_not(tmp_path: Path) -> None:
    kept = log(tmp_path)
    kept.keep(TORCH, 1000, 90.0, cached=False)
    kept.keep(TORCH, 1000, 3.0, cached=True)
    assert seconds(kept, TORCH) == (3.0, True)
    assert seconds(kept, Build("torch:cpu", "pins of tomorrow")) == (90.0, True)


def test_what_nobody_has_built_is_named_and_not_guessed(tmp_path: Path) -> None:
    assert log(tmp_path).expected([TORCH]) == ([], [TORCH])
    words = Effort(unknown=[TORCH], measuring_s=60.0).words
    assert words[0] == "to build: 1 image"
    assert "not known" in words[1]
    assert words[2] == "this will take about 60 s, and torch:cpu beside (rough): measuring 60 s"


def test_an_environment_takes_what_the_layers_of_the_same_packages_take(tmp_path: Path) -> None:
    layers = {"base:cpu": BuildCost(size_bytes=30, whole_s=10.0), "null:cpu": BuildCost(size_bytes=1, whole_s=3.0)}
    found, _ = log(tmp_path, layers).expected([Build("null-cpu", "x", ("base:cpu", "null:cpu"))])
    assert [(one.size_bytes, one.seconds) for one in found] == [(31, 13.0)]


def test_a_record_that_cannot_be_read_or_written_stops_no_build(tmp_path: Path) -> None:
    (tmp_path / "here.json").write_text("{", encoding="utf-8")
    kept = log(tmp_path)
    assert kept.expected([TORCH]) == ([], [TORCH])
    kept.keep(TORCH, 1000, 90.0, cached=False)
    assert seconds(kept, TORCH) == (90.0, True)
    BuildLog(tmp_path / "here.json" / "no folder", tmp_path / "none").keep(TORCH, 1, 1.0, cached=False)


def test_every_image_for_the_cpu_has_a_size_and_a_time_beforehand() -> None:
    known = BuildCosts.read(MEASURED_ELSEWHERE)
    assert known.machine
    catalogue = Catalogue()
    of_cpu = [name for name in catalogue.names if "cpu" in catalogue.get(name).manifest.devices]
    assert len(of_cpu) > 5
    assert {f"{name}:cpu" for name in of_cpu} <= known.builds.keys()


def test_the_plan_tells_each_build_and_the_time_of_everything() -> None:
    effort = Effort(
        builds=[Expected(TORCH, 867_000_000, 36.0, False), Expected(Build("null:cpu", "x"), 600_000, 3.0, True)],
        converting_s=300.0,
        measuring_s=120.0,
    )
    assert effort.words == [
        "to build: 2 images, 867.6 MB",
        "  torch:cpu: 867.0 MB, about 36 s (measured elsewhere)",
        "  null:cpu: 600.0 kB, about 3 s",
        "this will take about 8 min (rough): building 39 s, conversions 5 min, measuring 2 min",
    ]


def test_a_download_is_told_and_not_guessed() -> None:
    words = Effort(preparing_s=preparing_estimate_s("download", 10**9, 10**9), measuring_s=60.0).words
    assert words[-1] == "this will take about 60 s, and the download beside (rough): measuring 60 s"
    made_s, linked_s = preparing_estimate_s("generate", 10**9, 10**9), preparing_estimate_s("link", 0, 10**9)
    assert made_s is not None
    assert linked_s is not None
    assert made_s > linked_s > preparing_estimate_s("present", 0, 10**9) == 0  # type: ignore[operator]


def test_what_is_measured_beside_the_cells_takes_time_too() -> None:
    suite = Suite(images=("null",), batch_sizes=(1,))
    plan = make_plan(suite, Catalogue(), "cpu")
    alone_s = measuring_estimate_s(plan, suite, 10**7, 40)
    assert measuring_estimate_s(plan, suite, 10**7, 40, probed=True) > alone_s > 0


def test_an_earlier_conversion_tells_how_fast_the_next_is(tmp_path: Path) -> None:
    for artifact, content, took_s in (("hf", b"x" * 1000, 1.0), ("gguf-q8_0", b"y", 4.0)):
        folder = tmp_path / "model" / artifact
        folder.mkdir(parents=True)
        (folder / "weights").write_bytes(content)
        record = ArtifactRecord.of_folder(
            folder, artifact=artifact, source_digest="d", converter_digest="r", made_by="m", seconds=took_s
        )
        (folder / "artifact.json").write_text(record.to_json(), encoding="utf-8")
    assert earlier_rate(tmp_path, "gguf-q8_0") == 250.0
    assert earlier_rate(tmp_path, "gguf-q4_k_m") is None
    slow_s, fast_s = (conversion_estimate_s(10**6, rate) for rate in (250.0, 2.5e8))
    assert slow_s > 3000
    assert fast_s < 100


@pytest.mark.parametrize(
    ("modes", "downloads", "builds", "asks"),
    [
        ({}, (), False, False),
        ({}, ("a/b",), False, True),
        ({}, (), True, True),
        ({"yes": True}, ("a/b",), True, False),
        ({"as_json": True}, ("a/b",), True, False),
    ],
)
def test_a_person_is_asked_before_a_build_or_a_download_and_not_otherwise(
    monkeypatch: pytest.MonkeyPatch, modes: dict[str, bool], downloads: tuple[str, ...], builds: bool, asks: bool
) -> None:
    questions: list[str] = []
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr(click, "confirm", lambda text, **_: bool(questions.append(text)) or True)  # type: ignore[func-returns-value]
    effort = Effort(builds=[Expected(TORCH, 867_000_000, 36.0, True)] if builds else [])
    plan, outlook = SimpleNamespace(to_measure=("a", "b")), SimpleNamespace(downloads=downloads)
    News(Modes.model_validate(modes)).ask(plan, outlook, effort)  # type: ignore[arg-type]  # all that it asks of them
    assert bool(questions) == asks
    if asks:
        assert ("build 1 image, 867.0 MB" in questions[0], "download a/b" in questions[0]) == (builds, bool(downloads))
        assert questions[0].endswith("measure 2 cells?")


def test_who_says_no_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr(click, "confirm", lambda *_, **__: False)
    outlook, plan = SimpleNamespace(downloads=()), SimpleNamespace(to_measure=("a",))
    with pytest.raises(click.exceptions.Exit):
        News(Modes()).ask(plan, outlook, Effort(unknown=[TORCH]))  # type: ignore[arg-type]


def test_the_measured_defaults_are_of_the_form_that_a_machine_keeps() -> None:
    kept = json.loads(MEASURED_ELSEWHERE.read_text(encoding="utf-8"))
    assert BuildCosts.model_validate(kept).model_dump(mode="json") == kept


# As converters left them, of Llama-2-7B and of SmolLM2-135M in 16 bits.
@pytest.mark.parametrize(
    ("artifact", "weights_bytes", "made_bytes"),
    [
        ("gguf-q4_k_m", 13_477_000_000, 4_080_846_240),
        ("gptq-int4-g128", 13_477_000_000, 3_895_560_865),
        ("gguf-f16", 13_477_000_000, 13_477_946_784),
        ("gptq-int4-g128", 269_000_000, 172_808_678),
        ("gguf-iq4_xs", 269_000_000, 90_417_216),
        ("ct2-int8", 269_000_000, 136_172_703),
        ("gguf-q6_k", 269_000_000, 137_487_936),
        ("ort-fp32", 269_000_000, 540_478_256),
    ],
)
def test_disk_for_an_artifact_is_enough_and_not_three_times_as_much(
    artifact: str, weights_bytes: int, made_bytes: int
) -> None:
    assert made_bytes < artifact_bytes(artifact, weights_bytes) < made_bytes * 3


def test_conversions_share_the_room_of_the_copy_that_a_quantiser_removes() -> None:
    three = ["gptq-int4-g128", "awq-int4-g128", "gguf-f16"]
    together = conversion_bytes(three, 13_477_000_000)
    assert together < sum(conversion_bytes([one], 13_477_000_000) for one in three)
    assert together < 40_000_000_000
    assert conversion_bytes([], 13_477_000_000) == 0
