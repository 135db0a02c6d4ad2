"""What the image of ExLlamaV3 asks of the engine's generator, and what it makes of its events. A stand-in plays the
engine, with the shapes of release 1.6.5."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import numpy
import pytest
from conftest import ROOT
from image_module import image_module
from module_file import module_at
from step_sink import Sink

from bench_core.contract.adapter import Conversion, Decoding, Device, Variant
from bench_core.contract.errors import BadInput
from bench_core.contract.records.outcome import Outcome

PAGE = 256


class Asked(SimpleNamespace):
    """What an object of the engine was made of."""


class Job:
    def __init__(self, input_ids: Any, **asked: Any) -> None:
        self.ids = input_ids.ravel().tolist()
        self.asked = Asked(**asked)
        self.written = 0


class Table:
    def __init__(self) -> None:
        self.resets = 0

    def reset_page_table(self) -> None:
        self.resets += 1


class Generator:
    """Reads every prompt in its first step and gives each job one token a step: the prompt's last, counted on from.

    A stop token ends a job and is told beside the event, among what is held; so is a token whose text is not whole,
    which comes with a later event.
    """

    made: list[Generator] = []

    def __init__(self, model: Any, cache: Any, tokenizer: Any, **asked: Any) -> None:
        self.model, self.cache, self.tokenizer, self.asked = model, cache, tokenizer, Asked(**asked)
        self.pagetable = Table()
        self.jobs: list[Job] = []
        self.all_jobs: list[Job] = []
        self.held: dict[int, list[int]] = {}
        self.holds: set[int] = set()
        self.fails: set[int] = set()
        self.common: list[int] = []
        self.closed = self.cleared = 0
        Generator.made.append(self)

    def enqueue(self, job: Job) -> None:
        self.jobs.append(job)
        self.all_jobs.append(job)
        self.common.append(sys.modules["exllamav3.ext"].exllamav3_ext.count_match_tensor(None, None, 9))

    def num_remaining_jobs(self) -> int:
        return len(self.jobs)

    def iterate(self) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = []
        for job in list(self.jobs):
            row = job.asked.identifier
            if job.written == 0:
                events.append({"stage": "started", "identifier": row, "eos": False})
            if row in self.fails:
                self.jobs.remove(job)
                events.append({"stage": "error", "eos": True, "error": RuntimeError("CUDA out of memory")})
                continue
            events.append(self._token(job, row))
        return events

    def _token(self, job: Job, row: int) -> dict[str, Any]:
        job.written += 1
        token = job.ids[-1] + job.written
        held = [*self.held.pop(row, []), token]
        event: dict[str, Any] = {"stage": "streaming", "identifier": row, "eos": False}
        if token in (job.asked.stop_conditions or []):
            event |= {"eos": True, "eos_triggering_token_id": token, "held": {"token_ids": numpy.array([held])}}
        elif job.written == job.asked.max_new_tokens:
            event |= {"eos": True, "token_ids": numpy.array([held])}
        elif token in self.holds:
            self.held[row] = held
        else:
            event["token_ids"] = numpy.array([held])
        if event["eos"]:
            self.jobs.remove(job)
        return event

    def clear_queue(self) -> None:
        self.cleared += 1
        self.jobs.clear()

    def close(self) -> None:
        self.closed += 1


class Model:
    def __init__(self) -> None:
        self.loads: list[dict[str, Any]] = []
        self.unloads = 0

    def load(self, **asked: Any) -> None:
        self.loads.append(asked)

    def unload(self) -> None:
        self.unloads += 1

    def forward(self, ids: Any, params: dict[str, Any]) -> Any:
        assert params == {"attn_mode": "flash_attn_nc"}
        return numpy.zeros((1, ids.shape[-1], 128))


class TorchError(RuntimeError):
    """What torch raises where a device has no room."""


def _as_tensor(rows: Any, **_: Any) -> Any:
    return numpy.array(rows)


@pytest.fixture
def module() -> Iterator[ModuleType]:
    torch = mock.MagicMock(name="torch")
    torch.OutOfMemoryError, torch.tensor, torch.device = TorchError, _as_tensor, str
    engine: Any = ModuleType("exllamav3")
    engine.ArgmaxSampler = lambda: "argmax"
    engine.Cache = lambda model, **asked: Asked(model=model, **asked)
    engine.Config = SimpleNamespace(from_directory=lambda path: Asked(path=path, vocab_size=100))
    engine.Model = SimpleNamespace(from_config=lambda _config: Model())
    engine.Generator, engine.Job = Generator, Job
    constants: Any = ModuleType("exllamav3.constants")
    constants.PAGE_SIZE = PAGE
    ext: Any = ModuleType("exllamav3.ext")
    ext.exllamav3_ext = SimpleNamespace(count_match_tensor=lambda *_: 7)
    stand_ins = {"torch": torch, "exllamav3": engine, "exllamav3.constants": constants, "exllamav3.ext": ext}
    ours = [name for name in sys.modules if name.startswith("images")]
    Generator.made = []
    with mock.patch.dict(sys.modules, stand_ins):
        for name in ours:
            del sys.modules[name]
        yield image_module("exllamav3", "adapter")


def prepared(module: ModuleType, folder: Path, rows: int, prompt: int = 10, new: int = 4) -> Any:
    adapter = module.ExLlamaV3Adapter()
    settings = {"quantization_config": {"quant_method": "exl3", "bits": 4.0}}
    (folder / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    adapter.load(folder, Variant("exl3-4.0bpw", "exl3-4.0bpw", {}), Device("cuda", uuid="GPU-0"))
    adapter.prepare(rows, prompt, new)
    return adapter


@pytest.mark.parametrize(
    ("rows", "prompt", "new", "pages", "chunk"),
    [
        pytest.param(1, 10, 4, 1, 2048, id="one page"),
        pytest.param(64, 220, 35, 64, 2048, id="to a page's last position"),
        pytest.param(64, 220, 36, 128, 2048, id="one position more"),
        pytest.param(2, 3000, 200, 26, 3072, id="a prompt longer than the engine reads at once"),
    ],
)
def test_the_cache_has_the_cells_shape_and_a_prompt_is_one_piece(
    module: ModuleType, tmp_path: Path, rows: int, prompt: int, new: int, pages: int, chunk: int
) -> None:
    adapter = prepared(module, tmp_path, rows, prompt, new)
    generator = Generator.made[-1]
    assert generator.cache.max_num_tokens == pages * PAGE
    assert generator.asked.max_batch_size == rows
    assert generator.asked.max_chunk_size == generator.asked.shared_chunk_size == chunk
    assert generator.asked.prefill_cooldown == 0, "else rows end before others are read"
    assert generator.model.loads == [{"device": "cuda:0", "max_chunk_size": chunk, "max_batch_size": rows}]
    assert adapter.describe()["kv_positions"] == str(pages * PAGE)
    assert (Generator.made[0].closed, Generator.made[0].model.unloads) == (1, 1), "the first shape's model is gone"


def test_each_step_gives_every_row_a_token(module: ModuleType, tmp_path: Path) -> None:
    adapter = prepared(module, tmp_path, 2)
    sink = Sink()
    done = adapter.generate([[1, 10], [20]], Decoding(max_new_tokens=3), sink)
    assert [list(row.token_ids) for row in done] == [[11, 12, 13], [21, 22, 23]]
    assert sink.steps == [[0, 1]] * 3
    (first, second) = Generator.made[-1].all_jobs
    assert (first.asked.sampler, first.asked.stop_conditions, second.asked.identifier) == ("argmax", None, 1)


def test_an_end_is_the_rows_last_token_and_no_more_come(module: ModuleType, tmp_path: Path) -> None:
    adapter = prepared(module, tmp_path, 2)
    sink = Sink()
    done = adapter.generate([[10], [20]], Decoding(max_new_tokens=4, eos_token_ids=(12, 99)), sink)
    assert [list(row.token_ids) for row in done] == [[11, 12], [21, 22, 23, 24]]
    assert sink.steps == [[0, 1], [0, 1], [1], [1]]


@pytest.mark.parametrize("ends", [(), (13,)])
def test_a_token_that_is_held_back_counts_when_it_was_made(
    module: ModuleType, tmp_path: Path, ends: tuple[int, ...]
) -> None:
    adapter = prepared(module, tmp_path, 1)
    Generator.made[-1].holds = {11, 12}
    sink = Sink()
    (row,) = adapter.generate([[10]], Decoding(max_new_tokens=3, eos_token_ids=ends), sink)
    assert list(row.token_ids) == [11, 12, 13]
    assert sink.steps == [[0]] * 3


def test_no_text_is_made_and_no_number_beyond_the_vocabulary_is_chosen(module: ModuleType, tmp_path: Path) -> None:
    prepared(module, tmp_path, 1)
    tokenizer = Generator.made[-1].tokenizer
    assert tokenizer.actual_vocab_size == len(tokenizer.get_id_to_piece_list(True)) == 100
    assert set(tokenizer.get_id_to_piece_list()) == {""}


def test_nothing_is_taken_from_what_was_read_before(module: ModuleType, tmp_path: Path) -> None:
    adapter = prepared(module, tmp_path, 2)
    for _ in range(2):
        adapter.generate([[10], [10]], Decoding(max_new_tokens=2), Sink())
    generator = Generator.made[-1]
    assert generator.pagetable.resets == 2, "keys and values of earlier batches"
    assert generator.common == [0] * 4, "and of other rows"
    assert sys.modules["exllamav3.ext"].exllamav3_ext.count_match_tensor() == 7, "the engine is as it was"


def test_a_job_that_fails_fails_the_batch_and_leaves_none_behind(module: ModuleType, tmp_path: Path) -> None:
    adapter = prepared(module, tmp_path, 2)
    generator = Generator.made[-1]
    generator.fails = {1}
    with pytest.raises(RuntimeError, match="out of memory") as failed:
        adapter.generate([[10], [20]], Decoding(max_new_tokens=2), Sink())
    assert adapter.classify(failed.value) == Outcome.OOM_KV
    assert not generator.num_remaining_jobs()


def test_an_architecture_that_the_engine_does_not_know_is_unsupported(module: ModuleType) -> None:
    error = AssertionError("Unknown architecture FalconForCausalLM in /m/config.json")
    assert module.ExLlamaV3Adapter().classify(error) == Outcome.UNSUPPORTED


def test_scores_leave_out_what_fills_the_matrix_up(module: ModuleType, tmp_path: Path) -> None:
    adapter = prepared(module, tmp_path, 1)
    seen: list[Any] = []

    def log_probabilities(logits: Any, token_ids: Sequence[int]) -> list[float]:
        seen.append((logits.shape, token_ids))
        return [-1.0]

    with mock.patch.object(module, "log_probabilities", log_probabilities):
        assert adapter.score([1, 2, 3]) == [-1.0]
    assert seen == [((3, 100), [1, 2, 3])]


def test_the_direct_call_is_the_engines_own_loop(module: ModuleType, tmp_path: Path) -> None:
    adapter = prepared(module, tmp_path, 2)
    direct = image_module("exllamav3", "direct")
    assert direct.generate(adapter, [[10], [20]], Decoding(max_new_tokens=2)) == [[11, 12], [21, 22]]
    assert direct.generate(adapter, [[10]], Decoding(max_new_tokens=9, eos_token_ids=(12,))) == [[11, 12]]


def test_close_frees_all(module: ModuleType, tmp_path: Path) -> None:
    adapter = prepared(module, tmp_path, 1)
    generator = Generator.made[-1]
    adapter.close()
    adapter.close()
    assert (generator.closed, generator.model.unloads, adapter.engine) == (1, 1, None)


def conversion(folder: Path, artifact: str = "exl3-4.0bpw", kind: Any = "cuda") -> Conversion:
    for name in ("hf", "target"):
        (folder / name).mkdir()
    return Conversion(artifact, folder / "hf", folder / "target", Device(kind))


@pytest.mark.parametrize("synthetic", [True, False])
def test_its_own_converter_writes_the_bits_of_the_name(tmp_path: Path, synthetic: bool) -> None:
    convert = image_module("exllamav3", "convert")
    calls: list[list[str]] = []

    def run(command: list[str], check: bool) -> Any:
        assert not check
        calls.append(command)
        (Path(command[command.index("-w") + 1]) / "qtensors").mkdir()
        (Path(command[command.index("-o") + 1]) / "model.safetensors").touch()
        return SimpleNamespace(returncode=0)

    info = SimpleNamespace(read=lambda _path: SimpleNamespace(synthetic=synthetic))
    with mock.patch("subprocess.run", run), mock.patch.object(convert, "ModelInfo", info):
        facts = convert.to_exl3(conversion(tmp_path))
    (command,) = calls
    assert command[1:3] == ["-m", "exllamav3.conversion.convert_model"]
    assert command[command.index("-b") + 1] == facts["bits_per_weight"] == "4.0"
    assert ("-cr" in command) == synthetic, "trained weights get the converter's own calibration"
    assert [path.name for path in (tmp_path / "target").iterdir()] == ["model.safetensors"]


def test_a_conversion_that_left_nothing_has_failed(tmp_path: Path) -> None:
    """The converter prints an error and ends with code 0 where it refuses what it was asked for."""
    convert = image_module("exllamav3", "convert")
    info = SimpleNamespace(read=lambda _path: SimpleNamespace(synthetic=True))
    done = SimpleNamespace(returncode=0)
    with (
        mock.patch("subprocess.run", return_value=done),
        mock.patch.object(convert, "ModelInfo", info),
        pytest.raises(RuntimeError, match="left no weights"),
    ):
        convert.to_exl3(conversion(tmp_path))


@pytest.mark.parametrize(
    ("artifact", "kind", "words"), [("exl3-fourbpw", "cuda", "tells no bits"), ("exl3-4.0bpw", "cpu", "on a GPU")]
)
def test_what_cannot_be_converted_is_refused(tmp_path: Path, artifact: str, kind: str, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        image_module("exllamav3", "convert").to_exl3(conversion(tmp_path, artifact, kind))


def test_sources_for_other_devices_are_not_compiled(tmp_path: Path) -> None:
    wheels = module_at(ROOT / "images" / "_torch" / "extension_wheel.py")
    for name in ("a.cu", "quant/b.cpp", "quant/rocm/c.cu", "rocm/d.cu", "rocm/quant/e.cpp", "f.cuh"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    some, every = (wheels.Extension("e", "e_ext", left_out=left_out) for left_out in (("rocm",), ()))
    assert wheels.sources_of(some, tmp_path) == [str(tmp_path / n) for n in ("a.cu", "quant/b.cpp", "quant/rocm/c.cu")]
    assert len(wheels.sources_of(every, tmp_path)) == 5
