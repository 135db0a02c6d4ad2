"""``--watch``: the page of a run while it goes on, for this machine alone."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT, Drive, Made
from null_calls import UNCHECKED

from bench_core.contract.errors import BadInput
from bench_core.drive.show.live_page import PageChanged, live_page
from bench_core.drive.show.web import Snapshot, Web
from bench_core.report.page.write import html  # noqa: F401  # heavy, and imported before anything is timed


def get(url: str, path: str = "/", method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body."""
    port = int(url.rstrip("/").rpartition(":")[2])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, headers={key.replace("_", "-"): value for key, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


@pytest.fixture
def web() -> Iterator[Web]:
    made = Web(0)
    yield made
    made.close()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, make_run: Made) -> Path:
    root = tmp_path_factory.mktemp("finished")
    make_run(root, *UNCHECKED, "--samples", "8", "--batch-sizes", "1,2", "--run-id", "mine")
    return root / "results" / "mine"


def page_of(web: Web, seconds: float = 60.0) -> bytes:
    """The page of a run on a GPU, as soon as it is made."""
    before, deadline = web.version, time.monotonic() + seconds
    while web.version == before:
        assert time.monotonic() < deadline
        get(web.url)
        web.show(Snapshot())
        time.sleep(0.1)
    return get(web.url)[2]


def test_a_run_is_watched_while_it_goes_on(tmp_path: Path) -> None:
    folders = [f"--{name}={tmp_path / name}" for name in ("results", "data", "models")]
    call = (*UNCHECKED, "--samples", "12", "--batch-sizes", "1", "--variants", "scripted", "--repeats", "2")
    slow = ("--option", "null.ttft_s=0.6", "--watch", "0", "--run-id", "mine")
    command = [sys.executable, "-m", "bench_core.drive", *call, *slow, *folders]
    driver = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert driver.stdout is not None
    url = None
    for line in driver.stdout:
        found = re.search(r"the run's page, while it goes on: (http://127\.0\.0\.1:\d+/)$", line.rstrip())
        if found:
            url = found[1]
            break
    assert url is not None
    seen: list[tuple[int, bytes]] = []
    told: list[dict[str, object]] = []
    while driver.poll() is None:
        try:
            state = json.loads(get(url, "/state")[2])
            body = get(url)[2]
        except (OSError, http.client.HTTPException):  # it has just ended
            break
        told.append(state)
        if state["page"] not in [version for version, _ in seen]:
            seen.append((state["page"], body))
        time.sleep(0.3)
    out, _ = driver.communicate(timeout=60)
    assert driver.returncode == 0, out
    # Nothing yet, a page before the first engine, and one with its cell before the second.
    assert [version for version, _ in seen] == [0, 1, 2]
    assert b"not run" in seen[1][1]
    assert b'"throughput_tok_s"' not in seen[1][1].split(b'id="data"')[1].split(b"</script>")[0]
    assert b'"throughput_tok_s"' in seen[2][1].split(b'id="data"')[1].split(b"</script>")[0]
    lines = [line for state in told for line in state["lines"]]  # type: ignore[attr-defined]
    assert any(label == "running" and "token/s" in words for label, words in lines)
    assert any(state["ended"] for state in told)
    assert "[2/2] null.scripted.b1.r2  ok" in out, "the lines of a call that is no terminal stay as they are"


def test_only_this_machines_names_and_this_page_are_answered(web: Web) -> None:
    port = web.url.rstrip("/").rpartition(":")[2]
    assert get(web.url)[0] == 200
    for host in (f"localhost:{port}", "localhost", "127.0.0.1", "LOCALHOST:9999"):  # 9999: passed on by ssh
        assert get(web.url, Host=host)[0] == 200, host
    for host in (
        "evil.example",
        f"evil.example:{port}",
        f"127.0.0.1.evil.example:{port}",
        "",
        f"[::1]:{port}",
        "localhost:x",
    ):
        status, _, body = get(web.url, Host=host)
        assert (status, b"127.0.0.1" in body) == (403, True), host
        assert get(web.url, "/state", Host=host)[0] == 403
    for path in ("/index.html", "/../run.json", "/state/", "/?a=b", "/%2e%2e/"):
        assert get(web.url, path)[0] == 404, path
    assert get(web.url, "http://evil.example/")[0] == 403, "a proxy's form of a request"
    for method in ("POST", "PUT", "DELETE", "HEAD", "OPTIONS"):
        assert get(web.url, method=method)[0] == 501, method
    headers = get(web.url)[1]
    assert headers["X-Frame-Options"] == "DENY"
    assert "Access-Control-Allow-Origin" not in headers
    assert "Python" not in headers["Server"]


def test_it_listens_on_the_loopback_interface_alone(web: Web) -> None:
    port = int(web.url.rstrip("/").rpartition(":")[2])
    with socket.socket() as other:
        other.bind(("127.0.0.2", port))  # would be taken if it listened everywhere


def test_a_page_that_the_browser_has_is_not_sent_again(web: Web, finished: Path) -> None:
    web.begin(finished, on_cpu=False)
    page_of(web)
    status, headers, body = get(web.url)
    assert (status, len(body) > 100_000) == (200, True)
    again = get(web.url, If_None_Match=headers["ETag"])
    assert (again[0], again[2]) == (304, b"")


def test_on_a_gpu_a_page_is_made_when_somebody_asks_and_another_cell_has_ended(web: Web, finished: Path) -> None:
    web.begin(finished, on_cpu=False)
    web.show(Snapshot())
    assert web._making is None, "nobody has asked"
    first = page_of(web)
    assert b"null scripted" in first
    for _ in range(3):
        web.show(Snapshot())
        assert web._making is None, "nothing has ended since"
    web.ended += 1
    web.show(Snapshot())
    assert web._making is None, "not at once again"
    web._next_s = 0.0
    assert page_of(web) != first
    web._next_s = 0.0
    web.ended += 1
    assert web._asked_s is not None
    web._asked_s -= 1000.0
    web.show(Snapshot())
    assert web._making is None, "nobody looks any more"


def test_on_a_cpu_a_page_is_made_between_engines_alone(web: Web, finished: Path) -> None:
    web.begin(finished, on_cpu=True)
    web.between()
    assert web.version == 0, "nobody has asked"
    get(web.url)
    web.show(Snapshot())
    assert (web.version, web._making) == (0, None), "an engine may be measured now"
    web.between()
    assert web.version == 1
    web.between()
    assert web.version == 1, "nothing has ended since"


def test_a_page_that_cannot_be_made_is_said_and_the_last_one_stays(web: Web, finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    web.begin(folder, on_cpu=True)
    get(web.url)
    web.between()
    page = get(web.url)[2]
    (folder / "run.json").write_text("{}")
    web.ended += 1
    web._next_s = 0.0
    web.between()
    state = json.loads(get(web.url, "/state")[2])
    assert state["problem"].startswith("the page could not be made: ")
    assert "run.json" in state["problem"]
    assert get(web.url)[2] == page


def test_a_page_of_another_form_is_refused(finished: Path) -> None:
    page = (finished / "report.html").read_bytes()
    live = live_page(page, 3)
    assert live.count(b"connect-src 'self'") == 1
    assert live.count(b'data-page="3"') == 1
    for part in (b"<main>", b"</body>", b"default-src 'none';"):
        with pytest.raises(PageChanged):
            live_page(page.replace(part, b""), 1)


def test_a_port_in_use_is_told_in_one_line_before_anything_is_done(drive: Drive, tmp_path: Path, web: Web) -> None:
    port = web.url.rstrip("/").rpartition(":")[2]
    called = drive(*UNCHECKED, "--batch-sizes", "1", "--watch", port)
    assert called.code == 2
    first, hint = called.err.splitlines()
    assert first == f"error: --watch {port}: 127.0.0.1:{port} cannot be used: Address already in use"
    assert hint == "hint: name another port, or 0 for any that is free"
    assert called.out == ""
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(BadInput):
        Web(int(port))


@pytest.mark.parametrize("other", ["--build-only", "--self-check"])
def test_there_must_be_a_run_to_watch(drive: Drive, other: str) -> None:
    called = drive(*UNCHECKED, "--watch", "0", other)
    assert called.code == 2
    assert called.err.startswith("error: --watch shows a run\n")
    assert drive(*UNCHECKED, "--watch", "70000").code == 2
