"""Other load generators, measured beside this client by ``benchmark.py --peers FOLDER``.

Each is installed from the package index into a virtual environment of its own below the folder, where it is not there
yet, and runs as its documentation does for an OpenAI-style server, bound to the client's CPU with all its processes.
Its numbers come from its own export of single requests. CPU time per token is the difference of two runs, of which one
has a tenth of the requests, so that starting up costs it nothing.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from benchmark import Measured, Scene, Timed, judged, machine_cpu_s, own_cpu_s
from null_server import NullServer

PEERS = {"aiperf": "aiperf==0.13.0", "guidellm": "guidellm==0.8.1", "inference-perf": "inference-perf==0.7.0"}
# Its package takes no older Python than this.
PYTHONS = {"inference-perf": "python3.12"}
PROMPT = " ".join(f"t{number}" for number in range(100, 300))
LIMIT_S = 240

R = TypeVar("R")

# A tokenizer of whole words, so that nothing is downloaded; they count tokens with one.
TOKENIZER = """
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
words = {**{f"t{number}": number for number in range(2000)}, "<unk>": 2000, "</s>": 2001}
made = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", eos_token="</s>").save_pretrained("tok")
"""


def peers_in(folder: Path, scene: Scene, cpu: int) -> list[Callable[[NullServer], Measured]]:
    """One measurement for each peer."""
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    return [partial(peer_round, name, folder, scene, cpu) for name in PEERS]


def peer_round(name: str, folder: Path, scene: Scene, cpu: int, server: NullServer) -> Measured:
    """One round of one peer.

    Raises:
        RuntimeError: it cannot be installed, or does not end as it should.
    """
    environment = installed(name, folder, cpu)
    if not (folder / "tok").exists():
        checked([str(environment / "bin" / "python"), "-c", TOKENIZER], folder, cpu)
    run = _RUNS[name]
    few_cpu_s, (few, _) = spent(lambda: run(environment, folder, scene, max(scene.requests // 10, 1), cpu, server))
    machine, own, begin = machine_cpu_s(), own_cpu_s(server), time.monotonic()
    all_cpu_s, (requests, failed) = spent(lambda: run(environment, folder, scene, scene.requests, cpu, server))
    others = machine_cpu_s() - machine - (own_cpu_s(server) - own)
    tokens, more = sum(one.tokens for one in requests), sum(one.tokens for one in few)
    cpu_s = (all_cpu_s - few_cpu_s) / max(tokens - more, 1) * tokens
    return judged(
        PEERS[name], scene, requests, failed=failed, began_s=min(one.sent_s for one in requests), cpu_s=cpu_s,
        reading_s=None, longest_turn_s=None, others_cpus=max(others, 0.0) / (time.monotonic() - begin),
    )  # fmt: skip


def installed(name: str, folder: Path, cpu: int) -> Path:
    """Its virtual environment, made where it is not there yet.

    Raises:
        RuntimeError: it cannot be.
    """
    environment = folder / name
    if not (environment / "bin" / name).exists():
        checked([PYTHONS.get(name, sys.executable), "-m", "venv", str(environment)], folder, cpu)
        checked([str(environment / "bin" / "pip"), "install", "-q", PEERS[name]], folder, cpu)
    return environment


def spent(run: Callable[[], R]) -> tuple[float, R]:
    """CPU time of a run's processes, seconds, and what it gave."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = run()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, found


def checked(command: list[str], folder: Path, cpu: int) -> None:
    """Runs a command on one CPU.

    Raises:
        RuntimeError: it failed, or took too long.
    """
    try:
        ran = subprocess.run(
            ["taskset", "-c", str(cpu), *command],
            cwd=folder, capture_output=True, text=True, timeout=LIMIT_S, check=False,
        )  # fmt: skip
    except OSError as error:
        raise RuntimeError(f"{command[0]} cannot be started: {error}") from error
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"{Path(command[0]).name} took more than {LIMIT_S} s") from error
    if ran.returncode:
        raise RuntimeError(f"{Path(command[0]).name} failed: {(ran.stderr or ran.stdout)[-500:]}")


def _aiperf(
    environment: Path, folder: Path, scene: Scene, requests: int, cpu: int, server: NullServer
) -> tuple[list[Timed], int]:
    lines = json.dumps({"text": PROMPT}) + "\n"
    (folder / "aiperf.jsonl").write_text(lines * requests, encoding="utf-8")
    load = ["--concurrency", str(scene.streams)] if scene.streams else ["--request-rate", str(scene.rate)]
    checked(
        [
            str(environment / "bin" / "aiperf"), "profile", "-m", "scripted",
            "--url", f"http://{server.address.header}", "--endpoint-type", "completions", "--streaming", *load,
            "--request-count", str(requests), "--input-file", "aiperf.jsonl", "--custom-dataset-type", "single_turn",
            "--osl", str(scene.tokens), "--extra-inputs", f"max_tokens:{scene.tokens}", "--use-server-token-count",
            "--tokenizer", "./tok", "--artifact-dir", "./aiperf-out", "--ui", "none",
        ],
        folder, cpu,
    )  # fmt: skip
    found, failed = [], 0
    for line in (folder / "aiperf-out" / "profile_export.jsonl").read_text(encoding="utf-8").splitlines():
        record: dict[str, Any] = json.loads(line)
        metrics, about = record["metrics"], record["metadata"]
        if "time_to_first_token" not in metrics:
            failed += 1
            continue
        ttft, whole = metrics["time_to_first_token"]["value"] / 1e3, metrics["request_latency"]["value"] / 1e3
        tokens = int(metrics["output_sequence_length"]["value"])
        sent = about["request_start_ns"] / 1e9
        tpot = (whole - ttft) / max(tokens - 1, 1)
        late = (about["request_start_ns"] - about["credit_issued_ns"]) / 1e9
        found.append(Timed(sent, ttft, tpot, sent + whole, tokens, late))
    return found, failed


def _guidellm(
    environment: Path, folder: Path, scene: Scene, requests: int, cpu: int, server: NullServer
) -> tuple[list[Timed], int]:
    line = json.dumps({"prompt": PROMPT, "output_tokens_count": scene.tokens}) + "\n"
    (folder / "guidellm.jsonl").write_text(line * requests, encoding="utf-8")
    target = f"http://{server.address.header}"
    load = f"kind=concurrent,streams={scene.streams}" if scene.streams else f"kind=poisson,rate={scene.rate}"
    checked(
        [
            str(environment / "bin" / "guidellm"), "run",
            "--backend", f"kind=openai_http,target={target},model=scripted,request_format=/v1/completions",
            "--profile", load, "--constraint", f"kind=max_requests,count={requests}",
            "--tokenizer", "kind=hf_auto,model=./tok", "--data", "kind=json_file,path=guidellm.jsonl",
            "--output", "kind=json,path=guidellm.json", "--disable-console",
        ],
        folder, cpu,
    )  # fmt: skip
    told = json.loads((folder / "guidellm.json").read_text(encoding="utf-8"))["benchmarks"][0]["requests"]
    found = []
    for one in told["successful"]:
        ttft, tpot = one["time_to_first_token_ms"] / 1e3, one["inter_token_latency_ms"] / 1e3
        sent, ended, late = one["request_start_time"], one["request_end_time"], one["request_dispatch_delay"]
        found.append(Timed(sent, ttft, tpot, ended, one["output_tokens"], late))
    return found, len(told["errored"])


def _inference_perf(
    environment: Path, folder: Path, scene: Scene, requests: int, cpu: int, server: NullServer
) -> tuple[list[Timed], int]:
    lengths = {"total_count": requests, "std_dev": 0}
    prompts, outputs = PROMPT.count(" ") + 1, scene.tokens
    stage: dict[str, Any] = {"num_requests": requests, "concurrency_level": scene.streams}
    if not scene.streams:
        stage = {"rate": scene.rate, "duration": max(round(requests / scene.rate), 1)}
    left_out = {"request": False, "response": False, "response_chunks": False}
    asked = {
        "api": {"type": "completion", "streaming": True},
        "data": {
            "type": "random",
            "input_distribution": {**lengths, "min": prompts, "max": prompts, "mean": prompts},
            "output_distribution": {**lengths, "min": outputs, "max": outputs, "mean": outputs},
        },
        "load": {
            "type": "concurrent" if scene.streams else "poisson", "num_workers": 1, "interval": 0,
            "worker_max_concurrency": max(scene.streams, 100), "stages": [stage],
        },
        "server": {"type": "vllm", "model_name": "scripted", "base_url": f"http://{server.address.header}"},
        "tokenizer": {"pretrained_model_name_or_path": "./tok"},
        "storage": {"local_storage": {"path": "inference-perf-out"}},
        "report": {"request_lifecycle": {
            "per_request": True, "use_server_output_tokens": True, "per_request_fields": left_out,
        }},
    }  # fmt: skip
    (folder / "inference-perf.json").write_text(json.dumps(asked), encoding="utf-8")  # JSON is YAML
    command = [str(environment / "bin" / "inference-perf"), "--config_file", "inference-perf.json"]
    checked(command, folder, cpu)
    found, failed = [], 0
    told_of = folder / "inference-perf-out" / "per_request_lifecycle_metrics.json"
    for one in json.loads(told_of.read_text(encoding="utf-8")):
        told = one["info"]["response_metrics"]
        if one["error"] or not told["output_token_times"]:
            failed += 1
            continue
        times, sent = told["output_token_times"], one["start_time"]
        tpot = (times[-1] - times[0]) / max(told["output_tokens"] - 1, 1)
        found.append(Timed(sent, times[0] - sent, tpot, one["end_time"], told["output_tokens"]))
    return found, failed


_RUNS = {"aiperf": _aiperf, "guidellm": _guidellm, "inference-perf": _inference_perf}
