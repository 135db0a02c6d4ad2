"""What the image of SGLang does around its engine: tokens told step by step, ends of rows, slots, failures of the
engine's own processes. Stand-ins play the engine, in the shapes of release 0.5.17; the contract suite shows the same in
the image."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from conftest import ROOT
from image_module import image_module

from bench_core.contract.adapter import Decoding, Device, Variant
from bench_core.contract.asked.manifest import Manifest
from bench_core.contract.errors import BadInput
from bench_core.contract.records.outcome import Outcome
from bench_core.worker.engine.sink import StampingSink

FACTS: dict[str, Any] = {
    "weights_bytes": 1000,
    "embedding_bytes": 100,
    "cache_bytes": 4096 * 10,
    "cache_tokens": 4096,
    "page_tokens": 1,
    "max_running_requests": 16,
    "context_tokens": 512,
    "dtype": "float16",
    "kv_dtype": "float16",
    "attention_kernel": "FlashAttentionBackend",
    "linear_kernel": "UnquantizedLinearMethod",
    "prefix_cache": "ChunkCache",
    "overlap_schedule": "True",
    "decode_graphs": "full",
    "decode_graph_sizes": [1, 2, 16],
    "prefill_graphs": "breakable",
    "prefill_graph_tokens": 4096,
}


class Manager:
    """The engine's ``TokenizerManager``: takes a batch's requests, and what its core sends of them."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.handled: list[Any] = []
        self.asyncio_tasks: set[Any] = set()
        self.closed = 0
        self.recv_from_detokenizer = self.send_to_scheduler = SimpleNamespace(close=self._close)

    def _close(self, linger: int) -> None:
        assert linger == 0
        self.closed += 1

    def _send_batch_request(self, requests: Any) -> None:
        self.sent.append([request.stream for request in requests])

    async def _handle_batch_output(self, step: Any) -> None:
        self.handled.append(step)

    def auto_create_handle_loop(self) -> None:
        """As the engine does: takes the signals of the loop that runs."""
        loop = asyncio.get_running_loop()
        self.asyncio_tasks.add(loop.create_task(asyncio.sleep(1000)))
        loop.add_signal_handler(signal.SIGTERM, lambda: None)
        loop.add_signal_handler(signal.SIGQUIT, lambda: None)


class FakeEngine:
    """The engine: counts on from a prompt's last id; in three steps where it streams, in one where it does not."""

    made: dict[str, Any]
    fails: str = ""
    dies: bool = False

    def __init__(self, **arguments: Any) -> None:
        FakeEngine.made = arguments
        folder = Path(self.run_scheduler_process_func.args[0])  # type: ignore[attr-defined]
        signal.signal(signal.SIGQUIT, arguments["custom_sigquit_handler"])
        if self.fails:
            (folder / "1.txt").write_text(
                f"Scheduler hit an exception: Traceback\n  File a.py\n    b\n{self.fails}\n\n", "utf-8"
            )
            raise RuntimeError("Rank 0 scheduler died during initialization (exit code: 0). ")
        self.folder = folder
        self.loop = asyncio.new_event_loop()
        self.tokenizer_manager = Manager()
        self._scheduler_init_result = SimpleNamespace(
            scheduler_infos=[{"status": "ready", "facts": FACTS} for _ in range(arguments["tp_size"])]
        )
        self.asked: list[dict[str, Any]] = []
        self.shut_down = 0

    async def async_generate(
        self, input_ids: Any, sampling_params: dict[str, Any], rid: Any = None, **more: Any
    ) -> Any:
        self.asked.append({**sampling_params, **more})
        if more.get("return_logprob"):
            told = [(None, input_ids[0], None), *((-float(one), one, None) for one in input_ids[1:])]
            return {"meta_info": {"input_token_logprobs": told, "finish_reason": {"type": "length"}}, "output_ids": [1]}
        if self.dies:
            (self.folder / "1.txt").write_text(
                "Scheduler hit an exception: \ntorch.OutOfMemoryError: CUDA out of memory"
            )
            threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGQUIT)).start()
            await asyncio.sleep(1000)
        rows = [self._row(prompt, sampling_params) for prompt in input_ids]
        requests = [SimpleNamespace(stream=False) for _ in rows]
        self.tokenizer_manager._send_batch_request(requests)
        pieces = [1, 2, len(rows[0])] if requests[0].stream else [max(map(len, rows))]
        for low, high in zip([0, *pieces], pieces, strict=False):
            there = [(name, row[low:high]) for name, row in zip(rid, rows, strict=True) if row[low:high]]
            await self.tokenizer_manager._handle_batch_output(
                SimpleNamespace(rids=[name for name, _ in there], output_ids=[ids for _, ids in there])
            )
        return [{"output_ids": row, "meta_info": {"finish_reason": {"type": "length"}}} for row in rows]

    def generate(self, **asked: Any) -> Any:
        asked.setdefault("rid", [str(row) for row in range(len(asked["input_ids"]))])
        return self.loop.run_until_complete(self.async_generate(**asked))

    def _row(self, prompt: Sequence[int], asked: dict[str, Any]) -> list[int]:
        row = [prompt[-1] + step for step in range(1, asked["max_new_tokens"] + 1)]
        ends = set() if asked["ignore_eos"] else set(asked["stop_token_ids"])
        first = next((place for place, one in enumerate(row) if one in ends), len(row) - 1)
        return row[: first + 1]

    def shutdown(self) -> None:
        self.shut_down += 1


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The adapter's module, with stand-ins for what it imports."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    killed: list[int] = []

    def kill(pid: int, *, include_parent: bool, wait_timeout: float) -> None:
        assert not include_parent
        assert wait_timeout > 0
        killed.append(pid)

    engine = ModuleType("sglang.srt.entrypoints.engine")
    engine.Engine = FakeEngine  # type: ignore[attr-defined]
    utils = ModuleType("sglang.srt.utils")
    utils.kill_process_tree = kill  # type: ignore[attr-defined]
    torch = mock.MagicMock()
    torch.OutOfMemoryError = type("OutOfMemoryError", (RuntimeError,), {})
    modules: dict[str, Any] = {name: ModuleType(name) for name in ("sglang", "sglang.srt", "sglang.srt.entrypoints")}
    pretrained = ModuleType("images._torch.pretrained")
    pretrained.require_complete = lambda _artifact: None  # type: ignore[attr-defined]
    modules |= {
        "torch": torch, engine.__name__: engine, utils.__name__: utils, pretrained.__name__: pretrained,
        "images._torch.adapter": None,
    }  # fmt: skip
    del modules["images._torch.adapter"]
    signals = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGQUIT)}
    with (
        mock.patch.dict(sys.modules, modules),
        mock.patch.object(sys, "path", [str(ROOT / "images/sglang"), str(ROOT), *sys.path]),
        mock.patch.multiple(FakeEngine, fails="", dies=False),
    ):
        sys.modules.pop("images._torch.adapter", None)
        found = image_module("sglang", "adapter")
        found.kernels.prepare = lambda: None
        found.killed = killed  # type: ignore[attr-defined]
        yield found
        for name in ("engine_process", "engine_steps", "kernels", "images._torch.adapter"):
            sys.modules.pop(name, None)
    for one, handler in signals.items():
        signal.signal(one, handler)


def loaded(module: Any, variant: str = "fp16", gpus: int = 1, **options: Any) -> Any:
    """An adapter with the stand-in loaded, at the options of the image."""
    manifest = Manifest.load(ROOT / "images/sglang")
    adapter = module.SglangAdapter()
    others = tuple(f"GPU-{number}" for number in range(1, gpus))
    asked: Variant = manifest.variant(variant, options, "cuda")
    adapter.load(Path("/models/hf"), asked, Device("cuda", "GPU-0", 4, others))
    return adapter


def sink(rows: int, ticks: Any = None) -> StampingSink:
    count = iter(range(1, 1000))
    return StampingSink(rows, ticks or (lambda: next(count)), wanted=True)


def test_the_engine_is_started_for_offline_use(module: Any) -> None:
    loaded(module, "fp8").close()
    asked = FakeEngine.made
    assert (asked["quantization"], asked["tp_size"], asked["dtype"]) == ("fp8", 1, "float16")
    assert asked["disable_radix_cache"]
    assert asked["skip_tokenizer_init"]
    assert (asked["max_running_requests"], asked["chunked_prefill_size"]) == (128, 16384)
    assert asked["custom_sigquit_handler"] == signal.SIG_IGN, "a failed process would kill the worker's engine process"
    loaded(module).close()
    assert FakeEngine.made["quantization"] is None


def test_tokens_are_told_at_the_step_that_brought_them(module: Any) -> None:
    """Two steps of one token, and one of the rest; a direct call, which is not streamed, gives the same."""
    adapter = loaded(module)
    told = sink(2)
    rows = adapter.generate([[3, 5], [9]], Decoding(4), told)
    assert [list(row.token_ids) for row in rows] == [[6, 7, 8, 9], [10, 11, 12, 13]]
    assert told._rows == [[1, 2, 3, 3], [1, 2, 4, 4]]
    manager = adapter.engine.tokenizer_manager
    assert manager.sent == [[True, True]]
    assert len(manager.handled) == 3, "the engine itself gets every step"
    assert image_module("sglang", "direct").generate(adapter, [[3, 5], [9]], Decoding(4)) == [
        [6, 7, 8, 9], [10, 11, 12, 13],
    ]  # fmt: skip
    assert manager.sent[1:] == [[False, False]], "afterwards the engine is as it was"
    adapter.close()


def test_what_is_of_no_row_of_the_batch_is_told_of_nobody(module: Any) -> None:
    """The engine's own requests, and what is left of a batch that was given up."""
    manager, told = Manager(), sink(2)
    step = SimpleNamespace(rids=["left", "1-1", "check", "1-0"], output_ids=[[7], [8], [], [4, 5]])
    with image_module("sglang", "engine_steps").tokens_told(manager, {"1-0": 0, "1-1": 1}, told):
        asyncio.run(manager._handle_batch_output(step))
    assert [len(row) for row in told._rows] == [2, 1]
    assert manager.handled == [step]


def test_without_token_times_the_engine_is_called_as_it_is(module: Any) -> None:
    adapter = loaded(module)
    adapter.generate([[3, 5]], Decoding(4), StampingSink(1, lambda: 1, wanted=False))
    assert adapter.engine.tokenizer_manager.sent == [[False]]
    adapter.close()


def test_a_row_ends_with_the_ids_asked_for_and_a_forced_one_with_none(module: Any) -> None:
    """The engine's ``ignore_eos`` switches the ids asked for off as well."""
    adapter = loaded(module)
    rows = adapter.generate([[3], [9]], Decoding(6, eos_token_ids=(6, 99)), sink(2))
    assert [list(row.token_ids) for row in rows] == [[4, 5, 6], [10, 11, 12, 13, 14, 15]]
    adapter.generate([[3]], Decoding(6), sink(1))
    natural, forced = adapter.engine.asked
    assert (natural["ignore_eos"], natural["stop_token_ids"]) == (False, [6, 99])
    assert (forced["ignore_eos"], forced["stop_token_ids"]) == (True, [])
    adapter.close()


def test_a_batch_has_a_slot_more_than_rows(module: Any) -> None:
    """A prompt that is read in two steps takes two, and the last of as many rows waited until another had ended."""
    adapter = loaded(module)
    adapter.prepare(15, 100, 50)
    with pytest.raises(BadInput, match="a batch of 16 needs more than the engine's 16"):
        adapter.prepare(16, 100, 50)
    with pytest.raises(BadInput, match="rows of 600 tokens"):
        adapter.prepare(1, 500, 100)
    with pytest.raises(module.CacheTooSmall) as small:
        adapter.prepare(15, 300, 100)
    assert adapter.classify(small.value) is Outcome.OOM_KV
    adapter.close()


def test_memory_is_that_of_all_gpus(module: Any) -> None:
    adapter = loaded(module, gpus=2)
    adapter.prepare(8, 200, 55)
    assert adapter.memory() == {"reserved_bytes": 2 * (1000 + 40960), "used_bytes": 2 * 1000 + 2 * 40960 // 2}
    told = adapter.describe()
    assert told["tensor_parallel_size"] == "2"
    assert told["weights_bytes"] == "2000"
    assert FakeEngine.made["tp_size"] == 2
    adapter.close()


def test_eight_bits_are_told_as_such(module: Any) -> None:
    adapter = loaded(module, "fp8")
    told = adapter.describe()
    assert (told["dtype"], told["kv_dtype"], told["embedding_bytes"]) == ("fp8", "float16", "100")
    adapter.close()
    assert all(isinstance(value, str) for value in told.values())


def test_probabilities_are_those_of_the_prompt_without_its_first_token(module: Any) -> None:
    adapter = loaded(module)
    assert adapter.score([7, 3, 5]) == [-3.0, -5.0]
    assert adapter.engine.asked[0]["logprob_start_len"] == 0
    adapter.close()


@pytest.mark.parametrize(
    ("words", "outcome"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.", Outcome.OOM_KV),
        ("RuntimeError: Not enough memory. Please try to increase --mem-fraction-static.", Outcome.OOM_KV),
        (
            "ValueError: Loaded weights leave no GPU memory for the KV cache under --mem-fraction-static=0.05. Raise "
            "--mem-fraction-static above 0.103 (minimum viable = 1 - available/pre = 0.0930).",
            Outcome.OOM_KV,
        ),
        ("RuntimeError: CUDA error: no kernel image is available for execution on the device", Outcome.UNSUPPORTED),
        ("KeyError: 'model.layers.0'", None),
    ],
)
def test_a_failed_start_is_told_in_the_words_of_the_process_that_failed(
    module: Any, words: str, outcome: Outcome | None
) -> None:
    """What the engine itself raises says nothing, and its processes that are left are ended."""
    before = signal.getsignal(signal.SIGQUIT)
    with mock.patch.object(FakeEngine, "fails", words), pytest.raises(module.EngineEnded) as ended:
        loaded(module)
    assert str(ended.value) == words
    assert module.SglangAdapter().classify(ended.value) is outcome
    assert module.killed == [os.getpid()]
    assert signal.getsignal(signal.SIGQUIT) == before


def test_a_process_that_fails_in_a_batch_ends_the_batch(module: Any) -> None:
    """The engine would wait for ever, or kill the process that started it."""
    adapter = loaded(module)
    with mock.patch.object(FakeEngine, "dies", new=True), pytest.raises(module.EngineEnded) as ended:
        adapter.generate([[3]], Decoding(4), sink(1))
    assert adapter.classify(ended.value) is Outcome.OOM_KV
    adapter.close()


def test_a_row_that_is_given_up_is_a_failure(module: Any) -> None:
    with pytest.raises(RuntimeError, match="gave a row up: no room"):
        module._ids({"output_ids": [], "meta_info": {"finish_reason": {"type": "abort", "message": "no room"}}})


def test_a_stop_reaches_the_worker_and_not_the_engine(module: Any) -> None:
    """The engine would end every request and the process at SIGTERM."""
    seen: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: seen.append(number))
    adapter = loaded(module)
    os.kill(os.getpid(), signal.SIGTERM)
    adapter.generate([[3]], Decoding(4), sink(1))
    assert seen == [signal.SIGTERM]
    adapter.close()


def test_closing_ends_processes_sockets_and_loop(module: Any) -> None:
    adapter = loaded(module)
    engine = adapter.engine
    adapter.close()
    assert engine.shut_down == 1
    assert engine.tokenizer_manager.closed == 2
    assert engine.loop.is_closed()
    assert all(task.cancelled() for task in engine.tokenizer_manager.asyncio_tasks)
    assert not engine.folder.exists()
    adapter.close()
    assert engine.shut_down == 1


class Tensor:
    def __init__(self, place: int, count: int, size: int) -> None:
        self._place, self._count, self._size = place, count, size

    def data_ptr(self) -> int:
        return self._place

    def numel(self) -> int:
        return self._count

    def element_size(self) -> int:
        return self._size


class VocabParallelEmbedding:
    weight = Tensor(1, 100, 2)


class Fp8LinearMethod:
    use_marlin, cutlass_fp8_supported = False, True


def test_facts_are_those_of_the_process_that_computes_and_its_own_ends_are_gone() -> None:
    """Tied weights count once; config.json's ends of a sequence would end a row that asks for others."""
    process = image_module("sglang", "engine_process")
    layer = SimpleNamespace(quant_method=Fp8LinearMethod())
    model = SimpleNamespace(
        parameters=lambda: [Tensor(1, 100, 2), Tensor(2, 50, 1), Tensor(1, 100, 2)],
        buffers=lambda: [Tensor(3, 10, 4)],
        modules=lambda: [VocabParallelEmbedding(), layer, SimpleNamespace()],
    )
    phase = SimpleNamespace(backend="full", bs=[1, 2], max_bs=2)
    scheduler = SimpleNamespace(
        tp_worker=SimpleNamespace(
            model_runner=SimpleNamespace(
                model=model, dtype="torch.float16", kv_cache_dtype="torch.float16", attn_backend=object()
            )
        ),
        server_args=SimpleNamespace(cuda_graph_config=SimpleNamespace(decode=phase, prefill=phase)),
        token_to_kv_pool_allocator=SimpleNamespace(get_kvcache=lambda: SimpleNamespace(mem_usage=0.5)),
        model_config=SimpleNamespace(context_len=4096, hf_eos_token_id={2}),
        tree_cache=object(), max_total_num_tokens=4096, page_size=1, max_running_requests=128, enable_overlap=True,
    )  # fmt: skip
    told = process.with_facts(lambda one: {"status": "ready", "tokens": one.max_total_num_tokens})(scheduler)
    assert (told["status"], told["tokens"]) == ("ready", 4096)
    facts = told["facts"]
    assert (facts["weights_bytes"], facts["embedding_bytes"], facts["cache_bytes"]) == (290, 200, 2**29)
    assert facts["linear_kernel"] == "Fp8LinearMethod (CUTLASS)"
    assert scheduler.model_config.hf_eos_token_id == set()
    assert facts.keys() == FACTS.keys(), "the stand-in of the adapter's tests is of another shape"


def test_last_words_are_those_of_a_failure_and_of_the_first_process_that_failed(tmp_path: Path) -> None:
    process = image_module("sglang", "engine_process")
    log = logging.getLogger("sglang.test")
    handler = process.LastWords(tmp_path)
    log.addHandler(handler)
    log.error("KV cache pool is full")
    assert process.cause_in(tmp_path) == ""
    log.error(
        "Scheduler hit an exception: Traceback (most recent call last):\n"
        '  File "runner.py", line 1, in run\n    raise Exception(\n'
        "Exception: Capture cuda graph failed: CUDA out of memory\n1. set --mem-fraction-static to a smaller value\n"
    )
    log.removeHandler(handler)
    assert process.cause_in(tmp_path) == "Exception: Capture cuda graph failed: CUDA out of memory"


def test_the_compiler_is_put_together_of_distributions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They may lie in two environments; linkers want a name that distributions leave out."""
    kernels = image_module("sglang", "kernels")
    places = {
        "nvcc": "a/cu13/bin",
        "ninja": "c/bin",
        "cuda_runtime.h": "b/cu13/include",
        "libcudart.so.13": "b/cu13/lib",
    }
    for name, folder in places.items():
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / name).write_text("")
    monkeypatch.setattr(kernels, "_file", lambda _package, name: tmp_path / places[name] / name)
    monkeypatch.setenv("CPATH", "/other")
    for name in ("CUDA_HOME", "LIBRARY_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", "/bin")
    kernels.use_compiler()
    assert os.environ["CUDA_HOME"] == str(tmp_path / "a/cu13")
    assert os.environ["PATH"].split(":") == [str(Path(sys.executable).parent), str(tmp_path / "c/bin"), "/bin"]
    assert os.environ["CPATH"] == f"{tmp_path / 'b/cu13/include'}:/other"
    assert (Path(os.environ["LIBRARY_PATH"]) / "libcudart.so").resolve() == tmp_path / "b/cu13/lib/libcudart.so.13"
    monkeypatch.setenv("CUDA_HOME", "/usr/local/cuda")
    kernels.use_compiler()
    assert os.environ["CUDA_HOME"] == "/usr/local/cuda", "a complete toolkit is left alone"


def test_compiled_kernels_lie_where_the_engine_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = image_module("sglang", "kernels")
    monkeypatch.setattr(kernels, "use_compiler", lambda: None)
    monkeypatch.setattr(kernels, "COMPILED", tmp_path / "image")
    monkeypatch.setenv("TVM_FFI_CACHE_DIR", str(tmp_path / "home"))
    kernels.prepare()
    assert not (tmp_path / "home").exists(), "an environment without an image compiles for itself"
    (tmp_path / "image" / "activation").mkdir(parents=True)
    (tmp_path / "image" / "activation" / "activation.so").write_text("")
    kernels.prepare()
    assert (tmp_path / "home" / "activation" / "activation.so").is_file()
