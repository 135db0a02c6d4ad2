"""Sixty cells in containers on three nodes, one of which is lost in the middle, beside the same run on one host.

The nodes' engine is one of the tests' own, which has no image: what runs there was sent through Ray's object store.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import docker
import pytest
from conftest import Drive, Made
from image_registry import accepting
from private_engine import PrivateEngine
from ray_nodes import Nodes
from test_cluster import begun, cells_with, hosts, specs, wait_for

from bench_core.contract.records import layout
from bench_core.runs.load import load_run
from bench_core.runs.view import Row
from bench_core.verify.run import verify_run

pytestmark = [pytest.mark.cluster, pytest.mark.docker]

SIXTY = (
    *("--images", "null,ctranslate2", "--device", "cpu", "--launcher", "docker", "--yes", "--samples", "16"),
    *("--max-new-tokens", "4", "--no-harness-check", "--exhaustive", "--max-warmup-batches", "1", "--threads", "1"),
    *("--control", "none", "--beside-sample", "0", "--batch-sizes", "1,2,4", "--repeats", "10", "--run-id", "sixty"),
    *("--option", "null.load_s=0", "--option", "null.ttft_s=0.02", "--option", "null.tpot_s=0.001"),
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of both runs."""
    return tmp_path_factory.mktemp("sixty")


@pytest.fixture(scope="module")
def engine(docker_client: docker.DockerClient) -> Iterator[PrivateEngine]:
    """The nodes' own."""
    found = PrivateEngine()
    try:
        found.start()
        yield found
    finally:
        found.remove()


@pytest.fixture(scope="module")
def nodes(root: Path, engine: PrivateEngine) -> Iterator[Nodes]:
    """Three nodes that share an engine."""
    with pytest.MonkeyPatch.context() as patch:
        found = Nodes(root, patch)
        try:
            for number in range(3):
                found.add(f"node{number}", {"DOCKER_HOST": engine.url})
            yield found
        finally:
            found.close()


@contextmanager
def refusing() -> Iterator[str]:
    """A registry on this host that lets nobody in."""

    class Handler(BaseHTTPRequestHandler):
        def _refuse(self) -> None:
            self.send_response(403)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_HEAD = do_POST = do_PUT = _refuse  # noqa: N815

        def log_message(self, format: str, *values: object) -> None: ...  # noqa: A002

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_port}/bench"
    finally:
        server.shutdown()


_OF_TIMES = "Date|Cluster|Side by side|Device time|Made by|CPU use|Busy|Precision|Warning"


# The second stands where others were seen at work.
_OF_HOSTS = ("### Devices side by side", "### Who used the CPUs")


def without_times(report: str) -> list[str]:
    """What a report has but for numbers, the marks that follow from times with their legends, and what tells of hosts:
    its headings, its facts, the columns of its tables, and what each row is of."""
    kept, section = [], ""
    lines = report.splitlines()
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        section = line if line.startswith("#") else section
        fact = line.startswith("- **") and not re.match(rf"- \*\*({_OF_TIMES})\*\*", line)
        if section in _OF_HOSTS or not (fact or line.startswith(("#", "|"))):
            continue
        plain = re.sub(r"[-+]?\d[\d.,]*(e-?\d+)?", "0", line).encode("ascii", "ignore").decode()
        if line.startswith("|") and not following.startswith("|--"):
            plain = "|".join(plain.split("|")[:3])
        kept.append(" ".join(re.sub(r"0(\s+0)+", "0", plain).split()))
    return kept


def at_work(run: Path) -> set[str]:
    """Nodes with a cell that has begun and not ended."""
    where = hosts(run)
    return {where[cell] for cell in where.keys() - cells_with(run, layout.OUTCOME_FILE)}


def of_the_work(run: Path) -> dict[str, tuple[object, ...]]:
    """What a cell did, but for times: its plan, its outcome, what each batch was given, and all output ids."""
    found: dict[str, tuple[object, ...]] = {}
    for row in load_run(run).rows:
        assert isinstance(row, Row)
        assert row.result is not None
        # The first cell of each launch is asked for scores, and what a lost node leaves is a launch of its own.
        spec = specs(run)[row.planned.cell].model_dump(exclude={"placement": True, "protocol": {"score_texts"}})
        found[row.planned.cell] = (spec, row.status, row.work, row.outputs)
    return found


def differing(ours: Mapping[str, tuple[object, ...]], theirs: Mapping[str, tuple[object, ...]]) -> list[str]:
    """Cell and what of it is not the same."""
    assert ours.keys() == theirs.keys()
    found = []
    for cell, parts in ours.items():
        for what, one, other in zip(("spec", "status", "work", "outputs"), parts, theirs[cell], strict=True):
            if isinstance(one, dict) and isinstance(other, dict):
                found += [f"{cell} {key}: {one[key]} and {other[key]}" for key in one if one[key] != other[key]]
            elif one != other:
                found.append(f"{cell} {what}: {one} and {other}"[:1000])
    return found


def test_sixty_cells_end_once_each_and_the_report_is_that_of_one_host(nodes: Nodes, root: Path, make_run: Made) -> None:
    with refusing() as registry:
        driver = begun((*SIXTY, "--cluster", nodes.address, "--registry", registry), root / "fleet")
        wait_for(lambda: bool(cells_with(root / "fleet" / "results" / "sixty", layout.SPEC_FILE)), 600)
    run = root / "fleet" / "results" / "sixty"
    try:
        wait_for(lambda: len(cells_with(run, layout.OUTCOME_FILE)) >= 20, 600)
        wait_for(lambda: "node1" in at_work(run), 60)
        nodes.kill("node1")
        out, _ = driver.communicate(timeout=900)
    finally:
        driver.kill()
    assert driver.returncode == 3, out
    assert "node1 is lost: " in out
    assert "the registry refuses it (" in out
    assert "sending image llm-bench/null:cpu" in out
    ended = re.findall(r"^\[\d+/60\] (\S+) +(\w+)", out, re.MULTILINE)
    assert len(ended) == len({cell for cell, _ in ended}) == 60
    assert {outcome for _, outcome in ended} == {"ok"}
    assert set(hosts(run).values()) == {"node0", "node1", "node2"}
    assert verify_run(run).differences == ()

    make_run(root / "host", *SIXTY, "--no-device-rates")  # a cluster's are not measured
    alone = root / "host" / "results" / "sixty"
    assert differing(of_the_work(run), of_the_work(alone)) == []
    reports = [without_times((one / layout.REPORT_FILE).read_text(encoding="utf-8")) for one in (run, alone)]
    assert "| null scripted | 0" in "\n".join(reports[0])
    assert reports[0] == reports[1]


def test_images_are_pulled_from_a_registry_that_takes_them(
    nodes: Nodes, engine: PrivateEngine, drive: Drive, tmp_path: Path
) -> None:
    for image in engine.client.images.list():  # what an earlier run has sent
        engine.client.images.remove(str(image.id), force=True)
    mine = ("--results", str(tmp_path / "results"), "--run-id", "mine")
    with accepting(tmp_path) as registry:
        called = drive(
            *SIXTY, *mine, "--images", "null", "--repeats", "1", "--cluster", nodes.address, "--registry", registry
        )
    said = called.out + called.err
    assert called.code == 0, said
    assert f"pushing llm-bench/null:cpu to {registry}/llm-bench/null:cpu-" in said
    assert "through Ray's object store" not in said
    assert "sending image" not in said
    assert "llm-bench/null:cpu" in {tag for image in engine.client.images.list() for tag in image.tags}
    assert not [tag for image in engine.client.images.list() for tag in image.tags if registry in tag]
    assert verify_run(tmp_path / "results" / "mine").differences == ()


def test_a_node_without_docker_is_left_out(nodes: Nodes, drive: Drive, tmp_path: Path) -> None:
    nodes.add("bare", {"DOCKER_HOST": f"unix://{tmp_path}/none.sock"})
    try:
        called = drive(*SIXTY, "--cluster", nodes.address, "--dry-run")
    finally:
        nodes.kill("bare")
    assert called.code == 0, called.err
    assert "node bare is left out: no Docker daemon answers at " in called.out
    assert "on bare" not in called.out
