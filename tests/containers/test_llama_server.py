"""llama.cpp's own server as image.yaml starts it: what its slots hold when their requests have ended."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import docker
import pytest
from conftest import ROOT, Run
from gguf import GGUFWriter, TokenType
from numpy import float32, ones
from numpy.random import default_rng

from bench_core.contract.asked.manifest import Manifest
from bench_core.contract.records import layout
from bench_core.worker.serve.command import filled, words_of

pytestmark = [pytest.mark.docker, pytest.mark.engines]

IMAGE, VARIANT = "llama-cpp-python", "f32"
WIDTH, INNER, HEADS = 64, 128, 2
SLOTS, CONTEXT_TOKENS, PROMPT_TOKENS, OUTPUT_TOKENS = 8, 128, 48, 8
PORT = 8000
# Others than the first, and the first again: one slot is idle all the time, whichever they get.
ORDER = (0, 1, 2, 3, 4, 0)

# Inside: asks one request after the other, and prints the answers and the slots as the server tells them.
ASKS = """
import json, subprocess, sys, time, urllib.request
command, port, path, bodies = json.loads(sys.argv[1])
server = subprocess.Popen(command, stdout=sys.stderr)
def told(path, body=None):
    data = json.dumps(body).encode() if body else None
    asked = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, {"Content-Type": "application/json"})
    return json.load(urllib.request.urlopen(asked, timeout=60))
end = time.monotonic() + 60
while True:
    try:
        told("/health")
        break
    except OSError:
        if server.poll() is not None or time.monotonic() > end:
            raise
        time.sleep(0.05)
answers = [told(path, body) for body in bodies]
print(json.dumps([answers, told("/slots")]))
server.terminate()
server.wait()
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights, and bytes for a vocabulary. What a slot holds of a request is less than 1 MiB: the server could
    keep it."""
    path = tmp_path_factory.mktemp("model") / "model.gguf"
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    out = GGUFWriter(path, "llama")
    out.add_context_length(SLOTS * CONTEXT_TOKENS)
    out.add_embedding_length(WIDTH)
    out.add_block_count(1)
    out.add_feed_forward_length(INNER)
    out.add_head_count(HEADS)
    out.add_layer_norm_rms_eps(1e-5)
    out.add_tokenizer_model("llama")
    out.add_token_list(tokens)
    out.add_token_scores([0.0] * len(tokens))
    out.add_token_types([TokenType.UNKNOWN, *[TokenType.CONTROL] * 2, *[TokenType.BYTE] * 256])
    draw = default_rng(0)
    matrices = {
        "token_embd": (len(tokens), WIDTH), "output": (len(tokens), WIDTH),
        **{f"blk.0.attn_{name}": (WIDTH, WIDTH) for name in ("q", "k", "v", "output")},
        "blk.0.ffn_gate": (INNER, WIDTH), "blk.0.ffn_up": (INNER, WIDTH), "blk.0.ffn_down": (WIDTH, INNER),
    }  # fmt: skip
    for name, shape in matrices.items():
        out.add_tensor(f"{name}.weight", draw.standard_normal(shape).astype(float32))
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        out.add_tensor(f"{name}.weight", ones(WIDTH, float32))
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    for part in (path.parent, path):
        part.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("prefix_cache", "at_once", "holding"),
    [
        pytest.param(False, None, 1, id="open loop"),
        pytest.param(False, SLOTS, len(set(ORDER)), id="closed loop"),
        pytest.param(True, None, len(set(ORDER)), id="open loop, prefix cache"),
    ],
)
def test_what_slots_hold_of_requests_that_have_ended(
    run: Run, docker_client: docker.DockerClient, model: Path, prefix_cache: bool, at_once: int | None, holding: int
) -> None:
    """In an open loop the last request's alone, since steps would go over it; everything where it is the prefix cache.
    A prompt that comes again gets the slot that still holds it, and is read again unless the prefix cache is on."""
    done = run("--images", IMAGE, "--build-only")
    assert done.returncode == 0, done.stdout + done.stderr
    answers, slots = _asked(docker_client, model, prefix_cache, at_once)
    assert len(slots) == SLOTS
    assert sum(slot.get("n_prompt_tokens", 0) > 0 for slot in slots) == holding
    used = {answer["id_slot"] for answer in answers}
    assert len(used) == (len(ORDER) if holding == 1 else len(set(ORDER))), "which slots were cleared"
    again = [answer["timings"]["cache_n"] for answer in answers]
    assert again[:-1] == [0] * (len(ORDER) - 1)
    assert (again[-1] > 0) == prefix_cache
    assert answers[-1]["tokens"] == answers[0]["tokens"]
    assert len(answers[0]["tokens"]) == OUTPUT_TOKENS


def _asked(client: docker.DockerClient, model: Path, prefix_cache: bool, at_once: int | None) -> Any:
    """Answers, and slots after them."""
    manifest = Manifest.load(ROOT / "images" / IMAGE)
    entry = manifest.serve
    assert entry is not None
    options = manifest.variant(VARIANT, {}, "cpu").options
    spec = cast(Any, SimpleNamespace(variant=VARIANT, serve=SimpleNamespace(prefix_cache=prefix_cache), gpus=1))
    places = {
        **{name: str(value) for name, value in options.items()}, "python": "python", "image": str(layout.IMAGE_MOUNT),
        "artifact": "/artifact", "host": "127.0.0.1", "port": str(PORT), "slots": str(SLOTS),
        "slot_tokens": str(SLOTS * CONTEXT_TOKENS), "threads": "1",
    }  # fmt: skip
    command = filled(words_of(manifest, spec, frozenset({at_once})), places)
    prompts = [default_rng(number + 1).integers(3, 259, PROMPT_TOKENS).tolist() for number in range(max(ORDER) + 1)]
    common = {**entry.body, **entry.forced, **entry.prefix_cache(on=prefix_cache).body, "stream": False}
    bodies = [{**common, entry.prompt_field: prompts[k], entry.length_fields[0]: OUTPUT_TOKENS} for k in ORDER]
    said = client.containers.run(
        f"llm-bench/{IMAGE}:cpu",
        ["-c", ASKS, json.dumps([command, PORT, entry.path, bodies])],
        entrypoint="python",
        network_mode="none",
        volumes={str(model): {"bind": "/artifact/model.gguf", "mode": "ro"}},
        read_only=True,
        tmpfs={"/tmp": ""},  # noqa: S108 - the container's
        user="65532:65532",
        remove=True,
    )
    return json.loads(said.splitlines()[-1])
