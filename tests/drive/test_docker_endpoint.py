"""The engine that is meant is the engine that is used, and one of another host is refused before it is asked."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import socket
import socketserver
import tempfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from conftest import Drive

from bench_core.contract.errors import BadInput
from bench_core.drive.launch.containers.endpoint import Endpoint, chosen_endpoint, connect, require_of_this_host
from bench_core.system.machine import memory_bytes

QUICK = ("--images", "null", "--device", "cpu", "--samples", "8", "--batch-sizes", "1")
ELSEWHERE = ("tcp://192.0.2.1:2375", "tcp://[2001:db8::1]:2375", "ssh://somebody@host.invalid")  # RFC 5737, 3849, 6761


def store(config: Path, name: str, url: str, *, certificates: tuple[str, ...] = (), unverified: bool = False) -> Path:
    """A context as ``docker context create`` stores it; without ``config.json``, which that command does not write."""
    key = hashlib.sha256(name.encode()).hexdigest()
    meta = config / "contexts" / "meta" / key / "meta.json"
    meta.parent.mkdir(parents=True)
    endpoints = {"docker": {"Host": url, "SkipTLSVerify": unverified}}
    meta.write_text(json.dumps({"Name": name, "Metadata": {}, "Endpoints": endpoints}), encoding="utf-8")
    for file in certificates:
        stored = config / "contexts" / "tls" / key / "docker" / file
        stored.parent.mkdir(parents=True, exist_ok=True)
        stored.write_text("", encoding="utf-8")
    return meta


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of Docker's settings, and none of the caller's own."""
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "settings"
    folder.mkdir()
    monkeypatch.setenv("DOCKER_CONFIG", str(folder))
    return folder


def use(config: Path, name: object) -> Path:
    """As ``docker context use`` does."""
    file = config / "config.json"
    file.write_text(json.dumps({"auths": {}, "currentContext": name}), encoding="utf-8")
    return file


def test_the_choice_is_the_docker_commands(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DOCKER_HOST, then DOCKER_CONTEXT, then `docker context use`, then the usual socket; empty is unset."""
    store(config, "used", "unix:///used.sock")
    store(config, "named", "unix:///named.sock")
    assert chosen_endpoint() == Endpoint("unix:///var/run/docker.sock")
    monkeypatch.setenv("DOCKER_CONTEXT", "named")  # without a config.json
    assert chosen_endpoint().url == "unix:///named.sock"
    use(config, "used")
    assert chosen_endpoint().url == "unix:///named.sock"
    assert chosen_endpoint().words == "unix:///named.sock (context named, of DOCKER_CONTEXT)"
    monkeypatch.setenv("DOCKER_CONTEXT", "")
    assert chosen_endpoint().words == "unix:///used.sock (context used, of docker context use)"
    monkeypatch.setenv("DOCKER_CONTEXT", "default")
    assert chosen_endpoint().url == "unix:///var/run/docker.sock"
    monkeypatch.setenv("DOCKER_CONTEXT", "named")
    monkeypatch.setenv("DOCKER_HOST", "unix:///host.sock")
    assert chosen_endpoint().words == "unix:///host.sock (DOCKER_HOST)"
    monkeypatch.setenv("DOCKER_HOST", "")
    assert chosen_endpoint().url == "unix:///named.sock"


def test_settings_are_looked_for_at_home(config: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("DOCKER_CONFIG")
    monkeypatch.setenv("HOME", str(tmp_path))
    config.rename(tmp_path / ".docker")
    store(tmp_path / ".docker", "mine", "unix:///mine.sock")
    use(tmp_path / ".docker", "mine")
    assert chosen_endpoint().url == "unix:///mine.sock"


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda config: use(config, "gone"), "there is no Docker context gone"),
        (lambda config: use(config, 7), "currentContext is no name"),
        (lambda config: (config / "config.json").write_text("{"), "config.json cannot be read"),
        (lambda config: (config / "config.json").mkdir(), "config.json cannot be read"),
        (lambda config: (store(config, "x", "y"), use(config, "x")), "is no address of a Docker engine"),
        (
            lambda config: (use(config, "x"), store(config, "x", "unix:///x").write_text('{"Endpoints": []}')),
            "Docker context x cannot be read",
        ),
        (
            lambda config: (store(config, "x", "tcp://localhost:2376", certificates=("key.pem",)), use(config, "x")),
            "certificates of Docker context x cannot be used",
        ),
    ],
)
def test_what_cannot_be_read_is_never_the_usual_socket(
    config: Path, break_it: Callable[[Path], object], words: str
) -> None:
    break_it(config)
    with pytest.raises(BadInput, match=words) as refused:
        require_of_this_host(chosen_endpoint())
    assert refused.value.hint or "address" in words


def test_certificates_of_a_context_go_along(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store(config, "whole", "tcp://localhost:2376", certificates=("ca.pem", "cert.pem", "key.pem"))
    store(config, "server", "tcp://localhost:2376", certificates=("ca.pem",))
    store(config, "blind", "tcp://localhost:2376", unverified=True)
    store(config, "plain", "tcp://localhost:2375")
    found = {}
    for name in ("whole", "server", "blind", "plain"):
        monkeypatch.setenv("DOCKER_CONTEXT", name)
        found[name] = chosen_endpoint().tls
    assert found["plain"] is None
    whole, server, blind = (found[name] for name in ("whole", "server", "blind"))
    assert whole is not None
    assert whole.verify is True
    assert whole.cert is not None
    assert [Path(path).name for path in (*whole.cert, str(whole.ca_cert))] == ["cert.pem", "key.pem", "ca.pem"]
    assert server is not None
    assert (server.verify, server.cert) == (True, None)
    assert blind is not None
    assert blind.verify is False


@pytest.mark.parametrize("url", ELSEWHERE)
def test_an_engine_of_another_host_is_refused_and_not_asked(
    drive: Drive, config: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    store(config, "far", url)
    monkeypatch.setenv("DOCKER_CONTEXT", "far")
    called = drive(*QUICK, "--launcher", "docker", "--dry-run")
    assert called.code == 2, called
    assert f"the Docker engine at {url} (context far, of DOCKER_CONTEXT) is not of this host" in called.err
    assert "hint: call the driver on that host" in called.err
    monkeypatch.setenv("DOCKER_HOST", url)
    assert "(DOCKER_HOST) is not of this host" in drive(*QUICK, "--launcher", "docker", "--dry-run").err


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.8.8.8"])
def test_a_loopback_address_is_this_hosts(host: str) -> None:
    require_of_this_host(Endpoint(f"tcp://{host}:2375"))


def test_without_containers_the_plan_and_the_start_say_why(
    drive: Drive, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{config}/nothing.sock")
    called = drive(*QUICK, "--dry-run")
    why = f"no Docker daemon answers at unix://{config}/nothing.sock (DOCKER_HOST)"
    assert called.code == 0, called.err
    assert f"engines run as processes, not in containers: {why}" in called.out
    assert f"launched as process: {why}" in called.out
    news = [json.loads(line) for line in drive(*QUICK, "--dry-run", "--json").out.splitlines()]
    assert why in next(line["text"] for line in news if line["type"] == "note")
    asked = drive(*QUICK, "--dry-run", "--launcher", "process")
    assert "Docker" not in asked.out


class Answers(BaseHTTPRequestHandler):
    """What the SDK asks of an engine before anything else."""

    info: dict[str, Any]

    def do_GET(self) -> None:
        known: dict[str, Any] = {"version": {"ApiVersion": "1.44"}, "info": self.info, "_ping": "OK"}
        body = json.dumps(known[self.path.rpartition("/")[2]]).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "somebody"

    def log_message(self, *_: object) -> None: ...


class UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """HTTP on a socket file."""

    daemon_threads = True


@pytest.fixture
def engine_that_is(config: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Starts what answers like an engine on this very host but for what is given; its socket is then the chosen one."""
    servers: list[UnixServer] = []
    with tempfile.TemporaryDirectory(prefix="be-") as short:

        def start(**facts: object) -> str:
            ours = {"Name": platform.node(), "KernelVersion": platform.release(), "MemTotal": memory_bytes()}
            handler = type("Handler", (Answers,), {"info": {**ours, "SecurityOptions": ["name=seccomp"], **facts}})
            path = os.path.join(short, f"{len(servers)}.sock")
            servers.append(UnixServer(path, handler))
            threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
            store(config, path, f"unix://{path}")
            monkeypatch.setenv("DOCKER_CONTEXT", path)
            return path

        yield start
        for server in servers:
            server.shutdown()
            server.server_close()


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"KernelVersion": "6.6.12-linuxkit"}, "runs on kernel 6.6.12-linuxkit"),  # a virtual machine's
        ({"Name": "gpu-17", "MemTotal": 1 << 40}, "runs on gpu-17"),  # a socket forwarded from its like
        ({"SecurityOptions": ["name=seccomp,profile=builtin", "name=rootless"]}, "runs rootless"),
        ({"SecurityOptions": ["name=userns"]}, "maps users"),
    ],
)
def test_a_local_socket_of_an_engine_that_boxes_cannot_run_on_is_refused(
    engine_that_is: Callable[..., str], facts: dict[str, object], words: str
) -> None:
    engine_that_is(**facts)
    with pytest.raises(BadInput, match=words) as refused:
        connect()
    assert "--launcher process" in refused.value.hint


def test_an_engine_of_this_host_is_taken(engine_that_is: Callable[..., str]) -> None:
    path = engine_that_is()
    assert connect().api.base_url == "http+docker://localhost"
    assert connect().info()["Name"] == platform.node()
    os.unlink(path)
    with pytest.raises(BadInput, match="no Docker daemon answers at unix://"):
        connect()
    engine_that_is(Name="a-container")  # the driver in a container, with the host's socket
    assert connect().info()["Name"] == "a-container"


def test_a_name_of_this_host_is_no_other_host() -> None:
    """By any address that it listens on; a name that leads nowhere is not ours."""
    try:
        socket.getaddrinfo(platform.node(), 0)
    except OSError:
        pytest.skip("this host's name has no address")
    require_of_this_host(Endpoint(f"tcp://{platform.node()}:2375"))
    with pytest.raises(BadInput, match="no address of this host"):
        require_of_this_host(Endpoint("tcp://nowhere.invalid:2375"))
