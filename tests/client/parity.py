"""The same recorded load by this client and by aiperf, on the same running server, in one call:

    PYTHONPATH=. python tests/client/parity.py --peers FOLDER                  # the scripted server
    PYTHONPATH=. python tests/client/parity.py --peers FOLDER --model MODEL    # and llama.cpp's own, in its image

aiperf gets the requests as lines of ``mooncake_trace`` with whole bodies, so that both send the same token ids; that
they did, in the trace's order, is checked by what the server says of each prompt. aiperf is measured twice: counting
output tokens by the server's usage record, and as it does unasked, by encoding the text again. ``peers.py`` says where
aiperf comes from. Server and client have one CPU each; each client goes ``--rounds`` times, in turns, and of its rounds
that is shown in which others used the least of the machine. ``MODEL`` is a Hugging Face folder, prepared and converted
as any run does it, unless ``--gguf`` names a file of it; Docker has to be there for it.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import itertools
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmark import Timed, machine_cpu_s, quantile
from null_server import null_server
from peers import PEERS, TOKENIZER, checked, installed, spent

from bench_core.contract.asked.manifest import Manifest
from bench_core.contract.records import layout
from bench_core.contract.serving.requests import RequestEvent
from bench_core.contract.serving.trace import TraceRequest, read_trace
from bench_core.worker.serve.command import filled

ROOT = Path(__file__).resolve().parents[2]
LLAMA, VARIANT = "llama-cpp-python", "q8_0"
SLOTS, CONTEXT_TOKENS = 32, 256
READY_WITHIN_S = 120.0


@dataclass(frozen=True)
class Load:
    """A trace to be made: Poisson arrivals, lengths even over a range."""

    requests: int
    rate: float
    prompt_tokens: tuple[int, int]
    output_tokens: tuple[int, int]
    vocabulary: int


NULL_LOAD = Load(400, 40.0, (20, 200), (20, 60), 256)
LLAMA_LOAD = Load(60, 1.0, (16, 64), (8, 24), 49_000)


@dataclass(frozen=True)
class Server:
    """One that runs.

    Attributes:
        host: with its port.
        image: folder whose image.yaml says how this client asks it.
        body: of a request of aiperf, beside prompt and length.
        tokenizer: folder, for aiperf.
        cpu_s: CPU time that it has used.
        decoded: seconds it has spent on tokens after the first of each request, and how many, as it counts itself.
    """

    name: str
    host: str
    image: Path
    body: dict[str, Any]
    tokenizer: Path
    cpu_s: Callable[[], float]
    decoded: Callable[[], tuple[float, float]] | None = None


@dataclass(frozen=True)
class Round:
    """One client's turn; ``requests`` in the trace's order, failed ones left out. ``server_tpot_s``: the mean time per
    token as the server counts it, where it does."""

    client: str
    requests: list[Timed]
    failed: int
    same: bool
    cpu_s: float
    others_cpus: float
    server_tpot_s: float | None


def write_trace(load: Load, path: Path) -> list[TraceRequest]:
    """Makes a trace in the suite's own form. Times are whole milliseconds, which is what aiperf keeps."""
    draw, at_s, lines = random.Random(1), 0.0, []  # noqa: S311  # a load, no secrets
    for _ in range(load.requests):
        ids = [draw.randrange(3, load.vocabulary) for _ in range(draw.randint(*load.prompt_tokens))]
        line = {
            "arrival_s": round(at_s, 3),
            "prompt_token_ids": ids,
            "output_tokens": draw.randint(*load.output_tokens),
        }
        lines.append(json.dumps(line) + "\n")
        at_s += draw.expovariate(load.rate)
    path.write_text("".join(lines), encoding="utf-8")
    return read_trace(path, [0])


# What a client says of its requests: those answered, in the trace's order; how many failed; whether their prompts were
# the trace's, as the server counts them.
Told = tuple[list[Timed], int, bool]


def own(server: Server, trace: Path, requests: list[TraceRequest], folder: Path, cpu: int) -> Told:
    """This client."""
    words = ["--image", str(server.image), "--server", server.host, "--trace", str(trace), "--cpu", str(cpu)]
    with (folder / "own.jsonl").open("w", encoding="utf-8") as out:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, str(Path(__file__).with_name("replay.py")), *words]
        subprocess.run(command, stdout=out, env=environment, check=True)
    events = [RequestEvent.model_validate_json(line) for line in (folder / "own.jsonl").read_text().splitlines()]
    same = [event.usage_prompt_tokens for event in events] == [len(one.prompt) for one in requests]
    found = []
    for event in events:
        sent, first, last = event.sent_s, event.first_token_s, event.last_token_s
        if not event.ok or sent is None or first is None or last is None:
            continue
        tpot = (last - first) / max(event.output_tokens - 1, 1)
        found.append(Timed(sent, first - sent, tpot, event.ended_s, event.output_tokens, sent - event.scheduled_s))
    return found, len(events) - len(found), same


def aiperf(
    server: Server, requests: list[TraceRequest], folder: Path, environment: Path, cpu: int, by_server: bool
) -> Told:
    """aiperf. Its lateness is from when it gave the request to a worker."""
    lines = []
    for one in requests:
        body = {**server.body, "model": "model", "prompt": list(one.prompt), "max_tokens": one.output_tokens}
        lines.append(json.dumps({"timestamp": one.offset_us / 1e3, "payload": body}) + "\n")
    (folder / "aiperf.jsonl").write_text("".join(lines), encoding="utf-8")
    checked(
        [
            str(environment / "bin" / "aiperf"), "profile", "-m", "model", "--url", f"http://{server.host}",
            "--endpoint-type", "completions", "--streaming", "--input-file", "aiperf.jsonl",
            "--custom-dataset-type", "mooncake_trace", "--fixed-schedule", "--request-count", str(len(requests)),
            *(["--use-server-token-count"] if by_server else []),
            "--tokenizer", str(server.tokenizer), "--artifact-dir", "./aiperf-out", "--ui", "none",
        ],
        folder, cpu,
    )  # fmt: skip
    text = (folder / "aiperf-out" / "profile_export.jsonl").read_text(encoding="utf-8")
    records = sorted((json.loads(line) for line in text.splitlines()), key=lambda one: one["metadata"]["session_num"])
    prompts = [record["metrics"].get("usage_prompt_tokens", {}).get("value") for record in records]
    found = []
    for record in records:
        metrics, about = record["metrics"], record["metadata"]
        if "time_to_first_token" not in metrics:
            continue
        ttft, whole = metrics["time_to_first_token"]["value"] / 1e3, metrics["request_latency"]["value"] / 1e3
        tokens, sent = int(metrics["output_sequence_length"]["value"]), about["request_start_ns"] / 1e9
        tpot = (whole - ttft) / max(tokens - 1, 1)
        late = (about["request_start_ns"] - about["credit_issued_ns"]) / 1e9
        found.append(Timed(sent, ttft, tpot, sent + whole, tokens, late))
    return found, len(requests) - len(found), prompts == [len(one.prompt) for one in requests]


def turn(client: str, server: Server, send: Callable[[], Told]) -> Round:
    """One client, and what others used meanwhile."""
    decoded_s, decoded = server.decoded() if server.decoded is not None else (0.0, 0.0)
    machine, served, begin = machine_cpu_s(), server.cpu_s(), time.monotonic()
    cpu_s, (found, failed, same) = spent(send)
    others = machine_cpu_s() - machine - (server.cpu_s() - served) - cpu_s
    others_cpus = max(others, 0.0) / (time.monotonic() - begin)
    tpot_s = None
    if server.decoded is not None:
        later_s, later = server.decoded()
        tpot_s = (later_s - decoded_s) / (later - decoded)
    return Round(client, found, failed, same, cpu_s, others_cpus, tpot_s)


def rows(server: Server, requests: list[TraceRequest], rounds: list[Round]) -> list[list[str]]:
    """Of each client its quietest round."""
    lines = []
    for client in dict.fromkeys(one.client for one in rounds):
        best = min((one for one in rounds if one.client == client), key=lambda one: one.others_cpus)
        sent = [one.sent_s for one in best.requests]
        late = sorted(at - one.offset_us / 1e6 for at, one in zip(sent, requests, strict=False))
        late = [one - late[0] for one in late] if not best.failed else []
        ttft = [one.ttft_s for one in best.requests]
        lasted_s = max(one.ended_s for one in best.requests) - min(sent)
        tokens = sum(one.tokens for one in best.requests)
        backwards = sum(later < earlier for earlier, later in itertools.pairwise(sent))
        lines.append([
            server.name, client, f"{len(best.requests)} of {len(requests)}", "yes" if best.same else "NO",
            str(backwards),
            *([f"{statistics.median(late) * 1e3:.2f}", f"{quantile(late, 0.99) * 1e3:.2f}"] if late else ["", ""]),
            f"{statistics.median(ttft) * 1e3:.2f}", f"{quantile(ttft, 0.99) * 1e3:.2f}",
            f"{statistics.median(one.tpot_s for one in best.requests) * 1e3:.3f}",
            f"{best.server_tpot_s * 1e3:.3f}" if best.server_tpot_s is not None else "",
            str(tokens), f"{tokens / lasted_s:.1f}", f"{best.cpu_s:.2f}", f"{best.others_cpus:.2f}",
        ])  # fmt: skip
    return lines


HEAD = (
    "server", "client", "answered", "the trace's prompts", "sent before an earlier one", "late p50 ms", "late p99 ms",
    "TTFT p50 ms", "TTFT p99 ms", "TPOT p50 ms", "the server's own ms per token",
    "output tokens", "output tokens/s", "client's CPU s", "others' CPUs",
)  # fmt: skip


def compared(server: Server, load: Load, given: argparse.Namespace, folder: Path) -> list[list[str]]:
    """All clients, in turns."""
    trace = folder / f"{server.image.name}.jsonl"
    requests = write_trace(load, trace)
    environment = installed("aiperf", given.peers, given.client_cpu)
    peer, cpu = PEERS["aiperf"], given.client_cpu
    clients: dict[str, Callable[[], Told]] = {
        "this client": partial(own, server, trace, requests, folder, cpu),
        peer: partial(aiperf, server, requests, folder, environment, cpu, by_server=True),
        f"{peer}, tokens counted from the text": partial(
            aiperf, server, requests, folder, environment, cpu, by_server=False
        ),
    }
    found = []
    for _ in range(given.rounds):
        found += [turn(name, server, send) for name, send in clients.items()]
        for one in found[-len(clients) :]:
            sys.stderr.write(f"{server.name}: {one.client}: others used {one.others_cpus:.2f} CPUs\n")
    return rows(server, requests, found)


@contextlib.contextmanager
def scripted(given: argparse.Namespace) -> Iterator[Server]:
    """The scripted server."""
    environment = installed("aiperf", given.peers, given.client_cpu)
    if not (given.peers / "tok").exists():
        checked([str(environment / "bin" / "python"), "-c", TOKENIZER], given.peers, given.client_cpu)
    with null_server("--ttft-s", "0.02", "--tpot-s", "0.005") as server:
        os.sched_setaffinity(server.process.pid, [given.server_cpu])
        yield Server(
            "scripted: TTFT 20 ms, TPOT 5 ms", server.address.header, ROOT / "images" / "null",
            {"stream": True, "stream_options": {"include_usage": True}}, given.peers / "tok",
            lambda: _process_cpu_s(server.process.pid),
        )  # fmt: skip


def _process_cpu_s(pid: int) -> float:
    """CPU time of a process and of its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def llama(given: argparse.Namespace, work: Path) -> Iterator[Server]:
    """llama.cpp's own server, in the suite's image of it, on one thread."""
    words = given.gguf.stem if given.gguf is not None else f"{given.model.name} {VARIANT}"
    file = given.gguf.resolve() if given.gguf is not None else _converted(given.model, work) / "model.gguf"
    manifest = Manifest.load(ROOT / "images" / LLAMA)
    entry = manifest.serve
    assert entry is not None
    options = {name: str(option.default) for name, option in manifest.options.items()}
    places = {
        **options, "python": "python", "image": str(layout.IMAGE_MOUNT), "artifact": "/artifact", "host": "127.0.0.1",
        "port": str(given.port), "slots": str(SLOTS), "slot_tokens": str(SLOTS * CONTEXT_TOKENS), "threads": "1",
        "context_tokens": str(CONTEXT_TOKENS),
    }  # fmt: skip
    command = filled((*entry.command, *entry.prefix_cache_off.words(idle=True)), places)
    started = subprocess.run(
        [
            "docker", "run", "--detach", "--rm", "--network", "host", "--cpuset-cpus", str(given.server_cpu),
            "--mount", f"type=bind,source={file},target=/artifact/model.gguf,readonly", "--entrypoint", command[0],
            f"llm-bench/{LLAMA}:cpu", *command[1:], "--metrics",
        ],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    container = started.stdout.strip()
    try:
        _until_ready(given.port, entry.ready)
        shown = subprocess.run(
            ["docker", "inspect", "--format", "{{.State.Pid}}", container], check=True, capture_output=True, text=True
        )
        pid = int(shown.stdout)
        body = {**entry.body, **entry.forced, **entry.prefix_cache_off.body, "stream_options": {"include_usage": True}}
        yield Server(
            f"llama-server, {words}", f"127.0.0.1:{given.port}", ROOT / "images" / LLAMA, body,
            given.model.resolve(), lambda: _process_cpu_s(pid), partial(_decoded, given.port),
        )  # fmt: skip
    finally:
        subprocess.run(["docker", "stop", "--time", "2", container], capture_output=True, check=False)


def _decoded(port: int) -> tuple[float, float]:
    """What llama-server counts since its start: seconds of decoding, and tokens."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    counters = dict(line.split(" ", 1) for line in lines if not line.startswith("#"))
    seconds, tokens = (counters[f"llamacpp:tokens_predicted_{name}"] for name in ("seconds_total", "total"))
    return float(seconds), float(tokens)


def _until_ready(port: int, path: str) -> None:
    end = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < end:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("GET", path)
            if connection.getresponse().status == 200:
                return
        time.sleep(0.2)
    raise SystemExit(f"the server does not answer within {READY_WITHIN_S:g} s")


def _converted(model: Path, work: Path) -> Path:
    """The artifact's folder, made by one short cell of a run, where it is not there yet."""
    name = Manifest.load(ROOT / "images" / LLAMA).variants[VARIANT].artifact
    if not list((work / "models").glob(f"*/{name}/model.gguf")):
        drive = [
            "bench_core.drive", "--model", str(model.resolve()), "--images", LLAMA, "--variants", VARIANT,
            "--device", "cpu", "--launcher", "docker", "--concurrency", "1", "--samples", "4", "--max-new-tokens", "8",
            "--max-ramp-seconds", "1", "--max-serve-seconds", "1", "--no-harness-check", "--no-device-rates",
            "--on-busy", "ignore", "--yes", "--results", str(work / "results"), "--data", str(work / "data"),
            "--models", str(work / "models"),
        ]  # fmt: skip
        subprocess.run([sys.executable, "-m", *drive], cwd=ROOT, check=True, stdout=sys.stderr)
    return next(path for path in (work / "models").glob(f"*/{name}") if path.is_dir()).resolve()


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description="The same recorded load by this client and by aiperf.")
    parser.add_argument("--peers", type=Path, required=True, help="folder for the virtual environments of others")
    parser.add_argument("--model", type=Path, help="a model's folder; without it only the scripted server is asked")
    parser.add_argument("--gguf", type=Path, help="a file of that model, taken as it is; else one is converted")
    parser.add_argument("--work", type=Path, help="folder that keeps the converted model; else a temporary one")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--port", type=int, default=8431, help="of llama.cpp's server")
    parser.add_argument("--server-cpu", type=int, default=min(os.sched_getaffinity(0)))
    parser.add_argument("--client-cpu", type=int, default=max(os.sched_getaffinity(0)))
    given = parser.parse_args()
    given.peers = given.peers.resolve()
    given.peers.mkdir(parents=True, exist_ok=True)
    found: list[list[str]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with scripted(given) as server:
            found += compared(server, NULL_LOAD, given, folder)
        if given.model is not None:
            with llama(given, (given.work or folder / "work").resolve()) as server:
                found += compared(server, LLAMA_LOAD, given, folder)
    words = f"Python {platform.python_version()}, Linux {platform.release()}, {os.cpu_count()} CPUs"
    sys.stdout.write(f"{words}; server on CPU {given.server_cpu}, client on CPU {given.client_cpu}\n\n")
    for line in (HEAD, ["---"] * len(HEAD), *found):
        sys.stdout.write("| " + " | ".join(line) + " |\n")


if __name__ == "__main__":
    main()
