"""Servers as image.yaml describes them: the command is complete on every device, and what they said is understood.

The streams under tests/data/streams were written by the servers in their images, and shortened; LMDeploy's by release
0.18.0 of its server over a stand-in for the engine behind it, since that wants a GPU.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from bench_core.client.ask import Address, Ask, Asker
from bench_core.client.load.wire import Response
from bench_core.client.read import Reader
from bench_core.contract.asked.manifest import DeviceKind, Manifest
from bench_core.contract.asked.server import ServerEntry
from bench_core.contract.errors import BadInput
from bench_core.contract.models.decoder import AttentionLayers, Decoder
from bench_core.contract.records.digest import ids_digest
from bench_core.contract.serving.load import Serve
from bench_core.worker.resolve import MeasureRequest
from bench_core.worker.serve.command import command_of, slots_of

ROOT = Path(__file__).resolve().parents[2]
STREAMS = ROOT / "tests" / "data" / "streams"
DEVICES: tuple[DeviceKind, ...] = ("cuda", "cpu")
PROMPT = [1, 403, 407, 261, 378]
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


def _manifests() -> dict[str, Manifest]:
    found = (Manifest.load(path.parent) for path in sorted(ROOT.glob("images/*/image.yaml")))
    return {manifest.name: manifest for manifest in found if manifest.serve is not None}


SERVING = _manifests()
# What a server calls its address, where that is not --host and --port.
ADDRESS = {"lmdeploy": ("--server-name", "--server-port")}
LLAMA_7B = SimpleNamespace(
    decoder=Decoder(attention=(AttentionLayers(count=32, kv_heads=32, key_dim=128, value_dim=128),))
)


def _entry(engine: str) -> ServerEntry:
    entry = SERVING[engine].serve
    assert entry is not None
    return entry


def _request(
    manifest: Manifest,
    variant: str,
    device: DeviceKind,
    prefix_cache: bool = False,
    concurrency: tuple[int, ...] = (4, 16),
    gpus: int = 1,
    searched: bool = False,
) -> MeasureRequest:
    """Of some load points (0: an open loop), for a Llama of 7B whose file has no size."""
    options = manifest.variant(variant, {}, device).options
    cells: Any = tuple(
        SimpleNamespace(
            variant=variant,
            options=options,
            threads=3,
            device=device,
            gpus=gpus,
            cards=("GPU-1", "GPU-2")[:gpus] if device == "cuda" else (),
            model=LLAMA_7B,
            load=SimpleNamespace(concurrency=at_once or None),
            serve=SimpleNamespace(prefix_cache=prefix_cache),
        )
        for at_once in concurrency
    )
    return MeasureRequest(
        cells, Path("/image"), Path("/models/artifact"), Path("/workload"), Path("/results"), searched=searched
    )


def _command(
    manifest: Manifest,
    variant: str,
    device: DeviceKind,
    prefix_cache: bool = False,
    concurrency: tuple[int, ...] = (4, 16),
    gpus: int = 1,
    searched: bool = False,
) -> list[str]:
    """As the server's supervisor makes it."""
    request = _request(manifest, variant, device, prefix_cache, concurrency, gpus, searched)
    return command_of(manifest, request, "0.0.0.0", 8000, longest=420, slots=16)  # noqa: S104  # of a container


def _after(words: list[str], name: str) -> str:
    assert words.count(name) == 1, f"{name} in {words}"
    return words[words.index(name) + 1]


def test_these_engines_serve() -> None:
    assert set(SERVING) >= {"vllm", "sglang", "llama-cpp-python", "lmdeploy", "transformers"}


@pytest.mark.parametrize(
    ("engine", "device", "variant"),
    [
        pytest.param(name, device, variant, id=f"{name}-{device}-{variant}")
        for name, manifest in SERVING.items()
        for device in DEVICES
        for variant in manifest.served_on(device)
    ],
)
def test_every_place_of_a_command_is_filled(engine: str, device: DeviceKind, variant: str) -> None:
    for prefix_cache in (False, True):
        words = _command(SERVING[engine], variant, device, prefix_cache)
        assert not [word for word in words if re.search(r"[{}]", word)]
        host, port = ADDRESS.get(engine, ("--host", "--port"))
        assert _after(words, port) == "8000"
        assert _after(words, host) == "0.0.0.0"  # noqa: S104  # of a container


def test_a_server_is_told_of_all_gpus_of_its_cell() -> None:
    vllm = _command(SERVING["vllm"], "gptq", "cuda", gpus=2)
    assert _after(vllm, "--tensor-parallel-size") == "2"
    sglang = _command(SERVING["sglang"], "fp16", "cuda", gpus=2)
    assert _after(sglang, "--tp-size") == "2"
    assert "--enforce-disable-flashinfer-allreduce-fusion" in sglang
    llama = _command(SERVING["llama-cpp-python"], "q4_k_m", "cuda", gpus=3)
    assert (_after(llama, "--split-mode"), _after(llama, "--tensor-split")) == ("layer", "1,1,1")
    assert _after(_command(SERVING["lmdeploy"], "awq", "cuda", gpus=2), "--tp") == "2"
    for engine in ("vllm", "sglang", "llama-cpp-python", "lmdeploy"):
        alone = _command(SERVING[engine], SERVING[engine].served_on("cuda")[0], "cuda")
        assert not {"--tensor-parallel-size", "--tp-size", "--tensor-split", "--tp"} & {*alone}
    with pytest.raises(BadInput, match="the server of transformers does not split"):
        _command(SERVING["transformers"], "fp16", "cuda", gpus=2)


@pytest.mark.parametrize("engine", SERVING)
def test_what_a_request_holds(engine: str) -> None:
    entry = _entry(engine)
    for on in (False, True):
        cache = entry.prefix_cache(on=on)
        asker = Asker(entry, Address("server", 8000), forced=True, extra=cache.body)
        _, _, content = asker.ask(0, PROMPT, 7).data.partition(b"\r\n\r\n")
        body = json.loads(content)
        assert body[entry.prompt_field] == PROMPT
        assert [body[field] for field in entry.length_fields] == [7]
        assert body["stream"] is True
        assert entry.forced.items() <= body.items()


def test_vllm_is_told_what_its_device_needs_and_keeps_its_own_limits() -> None:
    gpu, cpu = _command(SERVING["vllm"], "fp16", "cuda"), _command(SERVING["vllm"], "fp32", "cpu", prefix_cache=True)
    assert _after(gpu, "--gpu-memory-utilization") == "0.9"
    assert _after(cpu, "--kv-cache-memory-bytes") == "4G"
    assert "--no-enable-prefix-caching" in gpu
    assert "--enable-prefix-caching" in cpu
    assert "--no-enable-prefix-caching" not in cpu
    assert _after(gpu, "--max-model-len") == "420"
    assert not {"--max-num-seqs", "--max-num-batched-tokens"} & {*gpu, *cpu}


def test_lmdeploy_keeps_its_own_limits_and_reads_no_settings_of_a_checkpoint() -> None:
    """Told the longest request, it would read no more prompt tokens in a step than that."""
    words = _command(SERVING["lmdeploy"], "fp16", "cuda")
    assert not {"--session-len", "--max-batch-size", "--max-prefill-token-num", "--enable-prefix-caching"} & {*words}
    assert (_after(words, "--dtype"), _after(words, "--cache-max-entry-count")) == ("float16", "0.8")
    assert _after(words, "--generation-config") == "lmdeploy"
    assert _entry("lmdeploy").body["top_k"] == 1, (
        "the server samples whatever is asked for; of one token it has no choice"
    )
    assert "--enable-prefix-caching" in _command(SERVING["lmdeploy"], "gptq", "cuda", prefix_cache=True)


def test_sglang_keeps_its_own_limits_and_its_cache_is_switched() -> None:
    words = _command(SERVING["sglang"], "fp8", "cuda")
    assert (_after(words, "--quantization"), _after(words, "--mem-fraction-static")) == ("fp8", "0.85")
    assert "--context-length" not in words, "told the longest request, it writes two tokens less"
    assert not {"--max-running-requests", "--chunked-prefill-size"} & {*words}
    assert "--disable-radix-cache" in words
    assert "--disable-radix-cache" not in _command(SERVING["sglang"], "fp8", "cuda", prefix_cache=True)


def test_each_request_at_llama_cpp_has_a_slot_of_its_own_length() -> None:
    words = _command(SERVING["llama-cpp-python"], "q4_k_m", "cuda")
    assert _after(words, "--parallel") == "16"
    assert int(_after(words, "--ctx-size")) == 16 * 420
    assert "--no-cache-prompt" in words
    assert _after(words, "--flash-attn") == "auto"


@pytest.mark.parametrize(
    ("at_once", "prefix_cache", "searched", "words"),
    [
        pytest.param((16,), False, False, ("--no-kv-unified", "0"), id="all slots are busy"),
        pytest.param((0,), False, False, ("--kv-unified", "1"), id="an open loop"),
        pytest.param((0, 0), False, False, ("--kv-unified", "1"), id="open loops"),
        pytest.param((4, 16), False, False, ("--kv-unified", "1"), id="started by hand for two concurrencies"),
        pytest.param((1,), False, True, ("--kv-unified", "1"), id="a search for the highest concurrency"),
        pytest.param((16,), True, False, ("--no-kv-unified", "0"), id="prefix cache, all slots are busy"),
        pytest.param((0,), True, False, ("--no-kv-unified", "0"), id="prefix cache, an open loop"),
    ],
)
def test_idle_slots_of_llama_cpp_are_cleared_where_there_are_any_and_they_are_no_prefix_cache(
    at_once: tuple[int, ...], prefix_cache: bool, searched: bool, words: tuple[str, str]
) -> None:
    for variant, device in (("q4_k_m", "cuda"), ("q4_k_m-ngram", "cuda"), ("f32", "cpu")):
        command = _command(
            SERVING["llama-cpp-python"], variant, cast(DeviceKind, device), prefix_cache, at_once, searched=searched
        )
        caches = [word for word in command if word.endswith("kv-unified")]
        assert (*caches, _after(command, "--cache-ram")) == words
        assert not {"--cache-idle-slots", "--no-cache-idle-slots"} & {*command}, "on by itself"


@pytest.mark.parametrize(("engine", "slots"), [("llama-cpp-python", 64), ("transformers", 256)])
def test_a_search_for_the_highest_concurrency_has_slots_for_more_than_it_begins_with(
    engine: str, slots: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = SimpleNamespace(uuid="GPU-1", memory_bytes=140 * 2**30)
    monkeypatch.setattr("bench_core.worker.serve.command.visible_gpus", lambda: [gpu])
    manifest = SERVING[engine]
    variant = manifest.served_on("cuda")[0]
    assert slots_of(manifest, _request(manifest, variant, "cuda", concurrency=(1,), searched=True), 1224) == slots


@pytest.mark.parametrize(
    ("gpu_gib", "at_once", "slots"),
    [
        pytest.param(140, (300,), 201, id="longest requests of 1,280 tokens"),
        pytest.param(140, (4, 64), 64, id="no more than asked for"),
        pytest.param(24, (0,), 34, id="a small GPU"),
        pytest.param(140, (0,), 64, id="an open loop"),
        pytest.param(0.5, (0,), 1, id="the engine itself says that nothing fits"),
    ],
)
def test_a_server_that_takes_its_memory_at_once_gets_no_more_slots_than_fit(
    gpu_gib: float, at_once: tuple[int, ...], slots: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slot of 1,280 tokens of this model takes 0.625 GiB in 16 bits."""
    gpu = SimpleNamespace(uuid="GPU-1", memory_bytes=int(gpu_gib * 2**30))
    monkeypatch.setattr("bench_core.worker.serve.command.visible_gpus", lambda: [gpu])
    llama = SERVING["llama-cpp-python"]
    assert slots_of(llama, _request(llama, "q4_k_m", "cuda", concurrency=at_once), 1224) == slots


def test_a_server_whose_idle_slots_cost_time_is_started_for_each_number_of_slots() -> None:
    """A server that shares what it has is started once for all load points."""
    closed = [Serve(load="concurrency", concurrency=at_once) for at_once in (1, 16, 64)]
    rates = [Serve(load="rate", request_rate=rate) for rate in (4.0, 16.0)]
    loads = [closed[0], rates[0], *closed[1:], rates[1]]
    llama, transformers, vllm = (_entry(engine) for engine in ("llama-cpp-python", "transformers", "vllm"))
    for device in ("cuda", "cpu"):
        assert llama.of_one_server(loads, device) == ((closed[0],), tuple(rates), (closed[1],), (closed[2],))
        assert vllm.of_one_server(loads, device) == transformers.of_one_server(loads, device) == (tuple(loads),)


def test_servers_that_share_their_memory_among_requests_get_what_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench_core.worker.serve.command.visible_gpus", list)
    monkeypatch.setattr("bench_core.worker.serve.command.memory_bytes", lambda: 16 * 2**30)
    served: tuple[tuple[str, DeviceKind, int], ...] = (
        ("vllm", "cuda", 256), ("transformers", "cuda", 256), ("transformers", "cpu", 11),
    )  # fmt: skip
    for engine, device, slots in served:
        manifest = SERVING[engine]
        assert slots_of(manifest, _request(manifest, "fp32", device, concurrency=(0,)), 1224) == slots


def test_the_end_is_gone_past_where_transformers_is_forced() -> None:
    """Its field is JSON in a text; no id is -1, and an end that is only forbidden would be ``min_new_tokens``."""
    told = json.loads(_entry("transformers").forced["generation_config"])
    assert told == {"do_sample": False, "eos_token_id": -1}


def _read(engine: str, stream: str, tokens: int) -> Any:
    """The stream, each event in a read of its own, 1 ms, 2 ms, ... after the request was sent."""
    events = re.split(rb"(?<=\n\n)", (STREAMS / stream).read_bytes())
    pieces = [HEAD, *(event for event in events if event.strip())]
    times = [(number + 1) * 1_000_000 for number in range(len(pieces))]
    response = Response(0, 0, 0, times[-1], "ok", "", times, pieces)
    return Reader(_entry(engine)).read(response, Ask(0, ids_digest(PROMPT), len(PROMPT), tokens, True, b""))


@pytest.mark.parametrize(
    ("engine", "counted_by", "ids"),
    [
        ("vllm", "ids", [124, 178, 340, 446]),
        ("sglang", "ids", [164, 372, 61, 275]),
        ("llama-cpp-python", "ids", [124, 178, 171, 171]),
        ("lmdeploy", "ids", [124, 178, 340, 446]),
        ("transformers", "usage", None),
    ],
)
def test_a_stream_is_understood(engine: str, counted_by: str, ids: list[int] | None) -> None:
    found = _read(engine, f"{engine}.txt", 4)
    assert (found.end, found.cause, found.output_tokens) == ("ok", "", 4)
    assert found.counted_by == counted_by
    assert found.output_digest == (ids_digest(ids) if ids else None)
    assert found.usage_prompt_tokens == len(PROMPT)
    assert found.first_token_s == pytest.approx(0.002), "the first event has the first token"
    assert sum(found.arrival_tokens) == 4


def test_a_token_without_text_counts_and_comes_with_what_vllm_says() -> None:
    found = _read("vllm", "vllm.txt", 4)
    assert found.arrival_tokens == (1, 1, 1, 1)
    assert found.cached_tokens == 0


def test_a_token_without_text_counts_at_sglang_which_tells_no_cache_that_held_nothing() -> None:
    found = _read("sglang", "sglang.txt", 4)
    assert found.arrival_tokens == (1, 1, 1, 1)
    assert found.cached_tokens is None


def test_what_llama_cpp_took_from_its_cache_is_no_count_of_what_it_keeps() -> None:
    """Its ``tokens_cached`` is the length of the slot, prompt and output."""
    assert _read("llama-cpp-python", "llama-cpp-python.txt", 4).cached_tokens == 0


def test_tokens_whose_ids_llama_cpp_leaves_out_are_counted() -> None:
    """Each of these characters took two tokens; an event has the id of the second alone."""
    found = _read("llama-cpp-python", "llama-cpp-python.characters.txt", 6)
    assert (found.end, found.cause, found.output_tokens, found.counted_by) == ("ok", "", 6, "usage")
    assert found.arrival_tokens == (2, 2, 2)
    assert found.output_digest is None


def test_lmdeploy_tells_ids_of_characters_that_are_not_whole_yet() -> None:
    """The first piece of a character has no text, the next two came in one event, and the last event has no ids."""
    found = _read("lmdeploy", "lmdeploy.characters.txt", 4)
    assert (found.end, found.counted_by, found.arrival_tokens) == ("ok", "ids", (1, 2, 1))
    assert found.output_digest == ids_digest([232, 187, 153, 124])


def test_each_token_has_an_event_at_transformers() -> None:
    assert _read("transformers", "transformers.txt", 4).arrival_tokens == (1, 1, 1, 1)


@pytest.mark.parametrize(
    ("engine", "words"),
    [
        ("vllm", "Token id 99999 is out of vocabulary"),
        ("transformers", "index out of range in self"),
        ("lmdeploy", "An internal server error occurred."),
    ],
)
def test_a_failure_in_the_middle_of_a_stream_is_seen(engine: str, words: str) -> None:
    found = _read(engine, f"{engine}.error.txt", 4)
    assert (found.end, found.cause) == ("garbage", f"the server says: {words}")
