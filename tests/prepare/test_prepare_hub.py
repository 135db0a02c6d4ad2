"""A hub, played by a small server: only what is needed travels, refusals are one line, tokens stay secret."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from prepare_material import edit_json, toy_model, tree

from bench_core.contract.models.model import ModelInfo
from bench_core.contract.records.artifact import ArtifactRecord

COMMIT = "c" * 40
TOKEN = "hf_" + "s3cret" * 5


class Hub:
    """The part of the hub's HTTP interface that fetching a model uses, over a folder.

    ``refuse`` maps a repository to (status, the hub's error code); ``broken`` files end half-way; ``seen`` has
    (method, path, authorization) of each request.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.refuse: dict[str, tuple[int, str]] = {}
        self.broken: set[str] = set()
        self.seen: list[tuple[str, str, str | None]] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.answer(self)

            def do_HEAD(self) -> None:
                hub.answer(self)

            def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - the base class's name
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = unquote(request.path.partition("?")[0].lstrip("/"))
        self.seen.append((request.command, path, request.headers.get("Authorization")))
        for repository, (status, code) in self.refuse.items():
            if repository in path:
                self.send(request, status, b'{"error": "no"}', {"X-Error-Code": code, "X-Error-Message": "no"})
                return
        if path.startswith("api/models/owner/toy"):
            self.listing(request, path)
        elif path.startswith("owner/toy/resolve/") and (file := self.folder / path.split("/", 4)[4]).is_file():
            content = file.read_bytes()
            headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
            self.send(request, 200, content, headers, cut=file.name in self.broken)
        else:
            self.send(request, 404, b"{}", {"X-Error-Code": "EntryNotFound"})

    def listing(self, request: BaseHTTPRequestHandler, path: str) -> None:
        names = sorted(p.relative_to(self.folder).as_posix() for p in self.folder.rglob("*") if p.is_file())
        sizes = {name: (self.folder / name).stat().st_size for name in names}
        if "/tree/" in path:
            content: Any = [
                {"type": "file", "path": name, "size": size, "oid": hashlib.sha1(name.encode()).hexdigest()}  # noqa: S324
                for name, size in sizes.items()
            ]
        else:
            siblings = [{"rfilename": name, "size": size, "blobId": "b"} for name, size in sizes.items()]
            content = {"_id": "1", "id": "owner/toy", "modelId": "owner/toy", "sha": COMMIT, "siblings": siblings}
        self.send(request, 200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def send(
        self, request: BaseHTTPRequestHandler, status: int, content: bytes, headers: dict[str, str], cut: bool = False
    ) -> None:
        request.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            request.send_header(name, value)
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(content[: len(content) // 2] if cut else content)

    def fetched(self) -> set[str]:
        """Names of the files whose content was asked for."""
        return {path.split("/", 4)[4] for method, path, _ in self.seen if method == "GET" and "/resolve/" in path}


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    hub = Hub(toy_model(tmp_path / "repository", shard_bytes=20_000))
    thread = threading.Thread(target=hub.server.serve_forever, daemon=True)
    thread.start()
    yield hub
    hub.server.shutdown()
    hub.server.server_close()
    thread.join()


def prepare(hub: Hub | str, home: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own: the hub's libraries read their environment when they are imported."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    return subprocess.run(
        [sys.executable, "-m", "bench_core.prepare", "--data", "data", "--models", "models", *arguments],
        cwd=home,
        env={
            **clean,
            "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
            "HF_ENDPOINT": hub if isinstance(hub, str) else hub.url,
            "HF_HOME": str(home / "hf-home"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DOWNLOAD_TIMEOUT": "5",
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def error_of(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    cause, hint = done.stderr.splitlines()[-2:]
    assert cause.startswith("error: ")
    assert hint.startswith("hint: ")
    return f"{cause}\n{hint}"


def test_the_name_of_a_file_on_the_hub_is_no_pattern(hub: Hub, tmp_path: Path) -> None:
    """``toy[1].safetensors`` as a pattern means toy1.safetensors."""
    for path in hub.folder.glob("*.safetensors*"):
        path.unlink()
    toy_model(tmp_path / "whole")
    (tmp_path / "whole" / "model.safetensors").rename(hub.folder / "toy[1].safetensors")
    done = prepare(hub, tmp_path, "--model", "owner/toy", "--max-prompt-tokens", "64")
    assert done.returncode == 0, done.stderr
    assert "toy[1].safetensors" in hub.fetched()


def test_a_model_is_downloaded_once_and_only_what_is_needed(hub: Hub, tmp_path: Path) -> None:
    for name in ("README.md", "pytorch_model.bin", "consolidated.safetensors", "onnx/model.onnx", "modeling.py"):
        (hub.folder / name).parent.mkdir(exist_ok=True)
        (hub.folder / name).write_text("x")
    done = prepare(hub, tmp_path, "--model", "owner/toy", "--max-prompt-tokens", "64", HF_TOKEN=TOKEN)
    assert done.returncode == 0, done.stderr
    (folder,) = (p for p in (tmp_path / "models").iterdir() if not p.name.startswith("."))
    info, record = ModelInfo.read(folder / "model.json"), ArtifactRecord.read(folder / "hf" / "artifact.json")
    assert info.name == "owner/toy"
    assert record.facts["commit"] == COMMIT
    assert {f.path for f in record.files} == hub.fetched()
    assert not hub.fetched() & {"README.md", "pytorch_model.bin", "consolidated.safetensors", "modeling.py"}
    assert not list((tmp_path / "models").glob(".download-*"))

    assert any(authorization == f"Bearer {TOKEN}" for _, _, authorization in hub.seen)
    everything = tree(tmp_path / "models") | tree(tmp_path / "data")
    assert not any(TOKEN.encode() in content for content in everything.values())
    assert TOKEN not in done.stdout + done.stderr

    hub.server.shutdown()  # from here on there is no hub
    again = prepare("http://127.0.0.1:9", tmp_path, "--model", "owner/toy", "--max-prompt-tokens", "64")
    assert again.returncode == 0, again.stderr


def test_a_broken_download_leaves_no_model_and_is_continued(hub: Hub, tmp_path: Path) -> None:
    shard = sorted(hub.folder.glob("model-*.safetensors"))[-1].name
    hub.broken = {shard}
    error_of(prepare(hub, tmp_path, "--model", "owner/toy", "--max-prompt-tokens", "64"))
    assert not [p for p in (tmp_path / "models").iterdir() if not p.name.startswith(".")]
    assert not (tmp_path / "data").exists()
    hub.broken = set()
    hub.seen.clear()
    done = prepare(hub, tmp_path, "--model", "owner/toy", "--max-prompt-tokens", "64")
    assert done.returncode == 0, done.stderr
    assert shard in hub.fetched()
    assert "config.json" not in hub.fetched()


@pytest.mark.parametrize(
    ("status", "code", "cause", "hint"),
    [
        (403, "GatedRepo", "gated", "HF_TOKEN"),
        (401, "RepoNotFound", "not on the hub, or private", "HF_TOKEN"),
        (404, "RepoNotFound", "not on the hub, or private", "check the name"),
        (404, "RevisionNotFound", "no such revision", "branch, tag or commit"),
        (418, "Teapot", "cannot be fetched", "local path"),
    ],
)
@pytest.mark.parametrize("kind", ["--model", "--dataset"])
def test_a_refusal_of_the_hub_is_one_line_with_a_hint(
    kind: str, status: int, code: str, cause: str, hint: str, hub: Hub, tmp_path: Path
) -> None:
    hub.refuse["owner/private"] = (status, code)
    error = error_of(prepare(hub, tmp_path, kind, "owner/private"))
    assert "owner/private" in error
    assert cause in error
    assert hint in error
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("kind", ["--model", "--dataset"])
def test_no_network_is_one_line(kind: str, tmp_path: Path) -> None:
    assert "check the network" in error_of(prepare("http://127.0.0.1:9", tmp_path, kind, "owner/toy"))


@pytest.mark.parametrize("kind", ["--model", "--dataset"])
def test_offline_by_choice_is_said(kind: str, tmp_path: Path) -> None:
    error = error_of(prepare("http://127.0.0.1:9", tmp_path, kind, "owner/toy", HF_HUB_OFFLINE="1"))
    assert "HF_HUB_OFFLINE" in error


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ("code", "code of its own"),
        ("pickle", "weights are pickled"),
        ("tokenizer", "has no tokenizer.json"),
        ("config", "has no config.json"),
        ("shard", "is missing on the hub"),
        ("escape", "names a shard"),
    ],
)
def test_a_model_that_cannot_be_used_is_refused_before_its_weights_travel(
    change: str, cause: str, hub: Hub, tmp_path: Path
) -> None:
    index = hub.folder / "model.safetensors.index.json"
    if change == "code":
        edit_json(hub.folder / "config.json", auto_map={"AutoModel": "modeling.Own"})
    elif change == "pickle":
        for path in hub.folder.glob("model*"):
            path.unlink()
        (hub.folder / "pytorch_model.bin").write_text("x")
    elif change == "tokenizer":
        (hub.folder / "tokenizer.json").unlink()
    elif change == "config":
        (hub.folder / "config.json").unlink()
    elif change == "shard":
        next(hub.folder.glob("model-*")).unlink()
    else:
        edit_json(index, weight_map={"a": "../../outside.safetensors"})
    assert cause in error_of(prepare(hub, tmp_path, "--model", "owner/toy"))
    assert not any(name.endswith((".safetensors", ".bin")) for name in hub.fetched())
    assert not (tmp_path / "data").exists()
