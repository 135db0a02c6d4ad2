#!/usr/bin/env bash
# inference-perf 0.7.0: "constant" load is random, no seed repeats it, and slow "poisson" load keeps to the clock.
#
# "constant" draws exponential gaps and scales them to the stage's length: a Poisson process of which only the number of
# requests is given. Its gaps spread as much as they do under "poisson", so who runs both to learn what bursts cost
# learns nothing. The even spacing that the name promises cannot be had.
#
# "poisson" draws how many requests the next second gets, and spaces these as "constant" does, the last of them at the
# very end of the second. So each second with a request has one on its end. At 20 per second that is one in twenty; at
# one per second, where large models are measured, it is two of three.
#
# `base_seed`, which makes prompts repeatable, does not reach the arrivals: two runs with one seed are two loads.
#
# Seen (as requests came in at a server that answers at once; spread: standard deviation of the gaps over their mean,
# 0 where evenly spaced and 1 for a Poisson process; on the clock: within 30 ms of one fraction of a second):
#   constant   20 per second, 200 requests   spread 0.94, on the clock 10 % (by chance)
#   constant   the same again                spread 0.94, correlation with the gaps before -0.03
#   poisson    20 per second, 200 requests   spread 1.15, on the clock 11 %
#   poisson    1 per second, 40 requests     spread 0.83, on the clock 70 %
#   poisson    1 per second, 100,000 times of its timer, exactly on whole seconds: 63.4 %
# Fails if that changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# It takes no Python before 3.12; the variable is for machines where pyenv chooses.
PYENV_VERSION=${PYENV_VERSION:-3.12} python3.12 -m venv "$work/venv"
"$work/venv/bin/pip" install -q inference-perf==0.7.0
cd "$work"
cat > arrivals.py <<'PY'
import asyncio
import importlib.metadata
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from inference_perf.loadgen.load_timer import PoissonLoadTimer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

NEAR_S, WORDS = 0.03, 16
arrivals = []


def event(**fields):
    return f"data: {json.dumps({'id': 'a', 'object': 'text_completion', 'created': 0, 'model': 'm', **fields})}\n\n"


ANSWER = (
    event(choices=[{"index": 0, "text": "t1", "finish_reason": "stop"}])
    + event(choices=[], usage={"prompt_tokens": WORDS, "completion_tokens": 1, "total_tokens": WORDS + 1})
    + "data: [DONE]\n\n"
).encode()


async def serve(reader, writer):
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            lines = head.lower().split(b"\r\n")
            length = [line.split(b":")[1] for line in lines if line.startswith(b"content-length:")]
            await reader.readexactly(int(length[0]) if length else 0)
            body, kind = b"{}", b"application/json"
            if b"completions" in lines[0]:
                arrivals.append(time.monotonic())
                body, kind = ANSWER, b"text/event-stream"
            head = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n" % (kind, len(body))
            writer.write(head + body)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    writer.close()


def start(port, kind, rate, duration):
    lengths = {"total_count": rate * duration, "std_dev": 0}
    Path("config.json").write_text(json.dumps({  # JSON is YAML
        "api": {"type": "completion", "streaming": True},
        "data": {
            "type": "random",
            "input_distribution": {**lengths, "min": WORDS, "max": WORDS, "mean": WORDS},
            "output_distribution": {**lengths, "min": 1, "max": 1, "mean": 1},
        },
        "load": {"type": kind, "num_workers": 2, "base_seed": 1, "stages": [{"rate": rate, "duration": duration}]},
        "server": {"type": "vllm", "model_name": "m", "base_url": f"http://127.0.0.1:{port}"},
        "tokenizer": {"pretrained_model_name_or_path": "./tok"},
        "storage": {"local_storage": {"path": "out"}},
    }))
    return subprocess.Popen(
        [Path(sys.executable).with_name("inference-perf"), "--config_file", "config.json"],
        env={**os.environ, "HF_HUB_OFFLINE": "1"}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )


def on_the_clock(times):
    """The largest share of times with about the same fraction of a second."""
    away = ((abs((other - one + 0.5) % 1 - 0.5) for other in times) for one in times)
    return max(sum(apart < NEAR_S for apart in row) for row in away) / len(times)


async def measure(kind, rate, duration):
    arrivals.clear()
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    process = start(server.sockets[0].getsockname()[1], kind, rate, duration)
    output, _ = await asyncio.to_thread(process.communicate, timeout=240)
    if process.returncode or len(arrivals) != rate * duration:
        sys.exit(output + f"\n{len(arrivals)} requests came")
    times = sorted(arrivals)
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    spread = statistics.stdev(gaps) / statistics.mean(gaps)
    print(f"{kind:8} {rate:2} per second for {duration} s: spread {spread:.2f}, on the clock {on_the_clock(times):.0%}",
          flush=True)
    return times, gaps, spread


words = {**{f"t{number}": number for number in range(500)}, "<unk>": 500, "</s>": 501}
tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>").save_pretrained("tok")

print("inference-perf", importlib.metadata.version("inference-perf"))
_, first_gaps, constant = asyncio.run(measure("constant", 20, 10))
_, second_gaps, again = asyncio.run(measure("constant", 20, 10))
alike = statistics.correlation(first_gaps, second_gaps)
print(f"constant, same base_seed twice: correlation of the gaps {alike:.2f}")
_, _, quick = asyncio.run(measure("poisson", 20, 10))
slow_times, _, _ = asyncio.run(measure("poisson", 1, 40))
drawn = list(itertools.islice(PoissonLoadTimer(1, 100_000).start_timer(0), 100_000))
whole = sum(abs(when - round(when)) < 1e-6 for when in drawn) / len(drawn)
print(f"poisson   1 per second, 100,000 times of its timer: exactly on whole seconds {whole:.1%}")
as_seen = all(0.7 < spread < 1.4 for spread in (constant, again, quick)) and abs(alike) < 0.4
as_seen = as_seen and on_the_clock(slow_times) > 0.35 and 0.6 < whole < 0.66
sys.exit(0 if as_seen else 1)
PY
"$work/venv/bin/python" arrivals.py 2> errors.txt || { cat errors.txt; exit 1; }
