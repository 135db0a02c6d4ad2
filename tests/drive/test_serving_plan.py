"""What a load over HTTP makes of a plan, which CPUs server and client get, and how a server's command is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import Drive

from bench_core.contract.asked.manifest import Manifest
from bench_core.contract.asked.protocol import MeasureOptions
from bench_core.contract.asked.scenario import Offline, scenario_of_word
from bench_core.contract.errors import BadInput
from bench_core.contract.records.spec import plan_cells
from bench_core.contract.serving.load import Serve
from bench_core.drive.ask.request import Suite
from bench_core.drive.launch.processes.launcher import free_ports
from bench_core.drive.plan.catalogue import Catalogue
from bench_core.drive.plan.plan import make_plan, plan_of_cells
from bench_core.system.cpus import deal
from bench_core.worker.serve.command import filled

_STREAMS = ("--find-capacity", "null.scripted", "--slo", "ttft_s=1", "--capacity-of", "concurrency")
HERE = ("--device", "cpu", "--launcher", "process", "--samples", "20", "--dry-run")


@pytest.mark.parametrize(
    "load",
    [
        Serve(load="concurrency", concurrency=16),
        Serve(load="rate", request_rate=0.5),
        Serve(load="rate", request_rate=8, arrivals="constant"),
        Serve(load="trace"),
    ],
    ids=lambda load: load.word,
)
def test_a_load_point_is_known_by_its_word(load: Serve) -> None:
    assert scenario_of_word(load.word) == load


def test_a_load_alone_has_no_closed_batches() -> None:
    suite = Suite.model_validate({"images": ("null",), "concurrency": (8, 2, 8), "request_rate": (0.5,)})
    assert suite.scenarios == ()
    assert [load.word for load in suite.loads] == ["c2", "c8", "r0_5"]
    plan = make_plan(suite, Catalogue(), "cpu")
    assert plan.to_measure == ("null.scripted.c2", "null.scripted.c8", "null.scripted.r0_5")
    assert plan.batch_sizes == ()


def test_batches_and_loads_of_one_run_are_launches_of_their_own() -> None:
    suite = Suite(images=("null",), batch_sizes=(1, 4), concurrency=(2,))
    plan = make_plan(suite, Catalogue(), "cpu")
    assert [(job.cells, job.served) for job in plan.grid] == [
        (("null.scripted.b1", "null.scripted.b4"), False),
        (("null.scripted.c2",), True),
    ]
    assert plan.batch_sizes == (1, 4)
    assert [load.word for load in plan.loads] == ["c2"]


def test_a_server_that_idle_slots_slow_down_is_launched_for_each_number_of_slots() -> None:
    """Also where the run is gone on with, or measured more often."""
    suite = Suite(
        images=("llama-cpp-python", "null"), batch_sizes=(1,), concurrency=(2, 64), request_rate=(4.0, 8.0), repeats=2
    )
    plan = make_plan(suite, Catalogue(), "cpu")
    launches = [("b1",), ("c2",), ("c64",), ("r4", "r8"), ("b1",), ("c2", "c64", "r4", "r8")]
    assert [tuple(scenario.word for scenario in job.scenarios) for job in plan.grid if job.repeat == 1] == launches
    again = plan_of_cells(plan.cells, suite, Catalogue(), "cpu")
    assert {(job.title, job.repeat, job.cells) for job in again.grid} == {
        (job.title, job.repeat, job.cells) for job in plan.grid
    }


def test_an_engine_without_a_server_is_left_out_or_refused() -> None:
    catalogue = Catalogue()
    everything = make_plan(Suite(images=("all",), batch_sizes=(), concurrency=(2,)), catalogue, "cpu")
    assert "ctranslate2.int8 has no server" in everything.left_out
    with pytest.raises(BadInput, match="has no server") as refused:
        make_plan(Suite(images=("ctranslate2",), batch_sizes=(), concurrency=(2,)), catalogue, "cpu")
    assert "null.scripted" in refused.value.hint
    both = make_plan(Suite(images=("ctranslate2",), batch_sizes=(1,), concurrency=(2,)), catalogue, "cpu")
    assert [job.served for job in both.grid] == [False]


def test_a_variant_of_the_server_alone_has_no_closed_batches() -> None:
    catalogue, name = Catalogue(), "llama-cpp-python.q4_k_m-ngram"
    with pytest.raises(BadInput, match="its server's alone") as refused:
        make_plan(Suite(images=("llama-cpp-python",), variants=(name,), batch_sizes=(1,)), catalogue, "cpu")
    assert "--concurrency" in refused.value.hint
    loaded = make_plan(
        Suite(images=("llama-cpp-python",), variants=(name,), batch_sizes=(1,), concurrency=(2,)), catalogue, "cpu"
    )
    assert loaded.to_measure == (f"{name}.c2",)
    assert any("no closed batches" in reason for reason in loaded.left_out)
    batches = make_plan(Suite(images=("llama-cpp-python",), variants=("all",), batch_sizes=(1,)), catalogue, "cpu")
    assert not any("ngram" in cell for cell in batches.to_measure)
    both = make_plan(
        Suite(images=("llama-cpp-python",), variants=("all",), batch_sizes=(1,), concurrency=(2,)), catalogue, "cpu"
    )
    assert f"{name}.c2" in both.to_measure
    assert f"{name}.b1" not in both.to_measure


def test_a_container_started_by_hand_refuses_its_closed_batches_too() -> None:
    manifest = Catalogue().get("llama-cpp-python").manifest
    variant = manifest.variant("q4_k_m-ngram", None, "cpu")
    unseen: Any = None
    with pytest.raises(BadInput, match="its server's alone"):
        plan_cells(MeasureOptions(), manifest, variant, "cpu", (Offline(batch_size=1),), unseen, unseen)


def test_the_command_line_says_loads_as_a_suite_file_does(drive: Drive, tmp_path: Path) -> None:
    shown = drive(
        *HERE, "--images", "null", "--concurrency", "1,4", "--request-rate", "0.5,2", "--arrivals", "constant"
    )
    assert shown.code == 0, shown.err
    assert "4 cells: null.scripted x {c1,c4,r0_5-constant,r2-constant}" in shown.out
    file = tmp_path / "suite.yaml"
    file.write_text("images: null\nconcurrency: [1, 4]\ndevice: cpu\nlauncher: process\nsamples: 20\n")
    assert "2 cells: null.scripted x {c1,c4}" in drive("--suite", str(file), "--dry-run").out


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (("--images", "ctranslate2", "--concurrency", "2"), "has no server"),
        (("--images", "null", "--concurrency", "0"), "whole number of 1 or more"),
        (("--images", "null", "--request-rate", "fast"), "a number above 0"),
        (("--images", "null", "--request-rate", "8,8.0004"), "8.0004 requests/s: a rate has 3 decimals at most"),
        (("--images", "null", "--request-rate", "50000"), "50000 requests/s for 240 s are 1.2e+07 requests, more than"),
        (("--images", "null", "--request-rate", "0.0004"), "0.0004 requests/s: a rate has 3 decimals at most"),
        (("--images", "null", "--concurrency", "2", "--slo", "ttft=1"), "is no limit"),
        (("--find-capacity", "null.scripted"), "latency limits are needed"),
        (("--find-capacity", "ctranslate2.float32", "--slo", "ttft_s=1"), "no server"),
        (("--images", "null", "--trace", "missing.jsonl"), "missing.jsonl"),
        ((*_STREAMS, "--capacity-start", "1.5"), "--capacity-start: 1.5 requests at once: a whole number"),
        ((*_STREAMS, "--capacity-start", "0.5"), "--capacity-start: 0.5 requests at once: a whole number"),
        ((*_STREAMS, "--capacity-limit", "70000"), "--capacity-limit: 70000 requests at once: a whole number"),
    ],
)
def test_what_cannot_be_served_is_refused(drive: Drive, words: tuple[str, ...], cause: str) -> None:
    refused = drive(*[word for word in HERE if word != "--dry-run"], *words)
    assert refused.code == 2, refused.err
    assert cause in refused.err
    assert drive(*HERE, *words).code == 2, "by the plan already, before anything is fetched or built"


def test_a_search_alone_begins_with_its_first_load(drive: Drive) -> None:
    shown = drive(*HERE, "--find-capacity", "null.scripted", "--slo", "ttft_s=1", "--capacity-start", "4")
    assert shown.code == 0, shown.err
    assert "1 cell: null.scripted x {r4}" in shown.out


@pytest.mark.parametrize(
    ("present", "processes", "server", "client"),
    [
        ((0,), 1, (0,), (0,)),
        ((0, 1), 1, (0,), (1,)),
        ((0, 1, 2, 3), 1, (0, 1, 2), (3,)),
        (tuple(range(16)), 1, tuple(range(14)), (14, 15)),
        (tuple(range(16)), 4, tuple(range(12)), (12, 13, 14, 15)),
        ((3, 5), 8, (3,), (5,)),
    ],
)
def test_server_and_client_share_no_cpu_where_there_are_two(
    present: tuple[int, ...], processes: int, server: tuple[int, ...], client: tuple[int, ...]
) -> None:
    shares = deal(processes, present)
    assert (shares.server, shares.client) == (server, client)


def test_ports_are_two_neighbours() -> None:
    assert 1024 <= free_ports() < 65535


def test_places_of_a_command_are_filled_and_unknown_ones_refused() -> None:
    assert filled(("{python}", "--x={port}", "plain"), {"python": "py", "port": "80"}) == ["py", "--x=80", "plain"]
    with pytest.raises(BadInput, match="is no place"):
        filled(("{nothing}",), {"python": "py"})


def test_a_variant_is_served_only_where_the_image_has_a_server() -> None:
    text = Catalogue().get("null").folder.joinpath("image.yaml").read_text(encoding="utf-8")
    manifest = Manifest.parse_yaml(text, "image.yaml")
    assert manifest.served_on("cpu") == ("scripted", "harness")
    assert "served_at_once" in manifest.server_options
    begin, end = text.index("serve:\n  command"), text.index("variants:")
    with pytest.raises(BadInput, match="has no server"):
        Manifest.parse_yaml(text[:begin] + text[end:], "image.yaml")


def test_an_offline_cells_files_say_nothing_of_serving() -> None:
    assert Offline(batch_size=4).word == "b4"
    with pytest.raises(ValueError, match="has its own number"):
        Serve(load="rate", concurrency=4)
