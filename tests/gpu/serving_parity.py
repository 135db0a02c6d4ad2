"""A run of cells under load, and beside it the engine's own client against the very same server.

    PYTHONPATH=. python tests/gpu/serving_parity.py OUT [options of the driver]

When the suite's client has measured the cells of the first launch, and before its server is removed, ``vllm bench
serve`` sends the same prompts to that server, from within its container: at each concurrency and rate of ``POINTS``.
``OUT`` gets what it printed, and the results of each point.
"""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import Any

from docker.models.containers import Container
from tokenizers import Tokenizer

from bench_core.contract.records import layout
from bench_core.contract.records.workload import Workload
from bench_core.drive.ask import cli
from bench_core.drive.launch.containers.launcher import DockerLauncher
from bench_core.drive.launch.containers.served import SERVER_PORT

POINTS = (("concurrency", 16, 400), ("concurrency", 64, 1000), ("rate", 16, 600))  # kind, number, prompts
OUTPUT_TOKENS = 200
_PIECE = 60_000  # of an argument's length, which the kernel limits
_TMP = "/tmp"  # noqa: S108  # in the container, where nothing else can be written
_WRITE = "import sys, base64; open(sys.argv[1], 'ab').write(base64.b64decode(sys.argv[2]))"


def prompts_of(mounts: list[dict[str, str]]) -> bytes:
    """The workload of a server's container as texts that encode to its ids, one JSON object a line."""
    place = {mount["Destination"]: Path(mount["Source"]) for mount in mounts}
    model = next(path for name, path in place.items() if name.startswith(str(layout.MODELS_MOUNT)))
    files = sorted(
        (place[str(layout.DATA_MOUNT)] / layout.WORKLOADS_FOLDER).glob("*.json"), key=lambda p: p.stat().st_mtime
    )
    workload = Workload.read(files[-1])
    tokenizer = Tokenizer.from_file(str(model / layout.HF_ARTIFACT / "tokenizer.json"))
    return "".join(json.dumps({"prompt": tokenizer.decode(list(ids))}) + "\n" for ids in workload.prompts).encode()


def put(container: Container, path: str, content: bytes) -> None:
    """Writes a file below a container's /tmp, the only place there that can be written."""
    text = base64.b64encode(content).decode()
    for at in range(0, len(text), _PIECE):
        done = container.exec_run(["python", "-c", _WRITE, path, text[at : at + _PIECE]])
        if done.exit_code != 0:
            raise RuntimeError(_said(done))


def _said(done: Any) -> str:
    return b"".join([done.output]).decode("utf-8", "replace")


def bench(container: Container, out: Path) -> None:
    """The engine's own client, at each point."""
    container.reload()
    put(container, f"{_TMP}/prompts.jsonl", prompts_of(container.attrs["Mounts"]))
    model = next(
        m["Destination"] for m in container.attrs["Mounts"] if m["Destination"].startswith(str(layout.MODELS_MOUNT))
    )
    for kind, number, prompts in POINTS:
        load = ["--max-concurrency", str(number)] if kind == "concurrency" else ["--request-rate", str(number)]
        name = f"{kind}-{number}"
        command = [
            "vllm", "bench", "serve", "--backend", "vllm", "--base-url", f"http://127.0.0.1:{SERVER_PORT}",
            "--endpoint", "/v1/completions", "--model", "model", "--served-model-name", "model",
            "--tokenizer", f"{model}/{layout.HF_ARTIFACT}", "--dataset-name", "custom",
            "--dataset-path", f"{_TMP}/prompts.jsonl",
            "--custom-output-len", str(OUTPUT_TOKENS), "--skip-chat-template", "--ignore-eos",
            "--num-prompts", str(prompts), *load, "--percentile-metrics", "ttft,tpot,itl,e2el",
            "--metric-percentiles", "50,90,99", "--temperature", "0", "--disable-tqdm", "--save-result",
            "--result-dir", _TMP, "--result-filename", f"{name}.json",
        ]  # fmt: skip
        done = container.exec_run(command, environment={"HF_HUB_OFFLINE": "1", "HOME": _TMP})
        (out / f"{name}.log").write_text(_said(done))
        kept = container.exec_run(["cat", f"{_TMP}/{name}.json"])
        if kept.exit_code == 0:
            (out / f"{name}.json").write_text(_said(kept))


def main() -> None:
    """Runs the driver with the engine's own client behind the first launch."""
    out = Path(sys.argv.pop(1))
    out.mkdir(parents=True, exist_ok=True)
    launches: list[Container] = []

    def meanwhile(_launcher: DockerLauncher, server: Container) -> None:
        launches.append(server)
        if len(launches) == 1:
            bench(server, out)

    DockerLauncher._meanwhile = meanwhile  # type: ignore[method-assign,assignment]  # what it is there for
    cli.main()


if __name__ == "__main__":
    main()
