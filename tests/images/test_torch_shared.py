"""What the images of engines on PyTorch share (images/_torch), as far as it can be told without torch: the modules are
executed with stand-ins for torch and Transformers. The contract suite shows the same in the images."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from conftest import ROOT
from module_file import module_at
from step_sink import Sink

from bench_core.contract.adapter import Decoding
from bench_core.contract.records.outcome import Outcome
from bench_core.drive.plan.catalogue import Catalogue, Image

SHARED = ROOT / "images" / "_torch"
IMPORT = re.compile(r"^\s*from images\._torch", re.MULTILINE)


def test_greedy_rows_end_each_at_its_own_end_of_sequence() -> None:
    steps = module_at(SHARED / "steps.py")
    made = iter([[5, 6], [2, 7], [9, 2], [9, 9]])
    sink = Sink()
    done = steps.greedy_rows(lambda: next(made), 2, Decoding(max_new_tokens=9, eos_token_ids=(2,)), sink)
    assert [list(row.token_ids) for row in done] == [[5, 2], [6, 7, 2]]
    assert sink.steps == [[0, 1], [0, 1], [1]], "a row that has ended gets no token"
    assert next(made) == [9, 9], "no step is made after the last row has ended"


def test_greedy_rows_of_a_forced_length_pass_over_every_end() -> None:
    steps = module_at(SHARED / "steps.py")
    sink = Sink()
    done = steps.greedy_rows(lambda: [2, 2], 2, Decoding(max_new_tokens=3), sink)
    assert [list(row.token_ids) for row in done] == [[2, 2, 2]] * 2
    assert sink.steps == [[0, 1]] * 3


class TorchError(RuntimeError):
    """What torch raises where a device has no room."""


@pytest.fixture
def torch() -> Iterator[mock.MagicMock]:
    """In the place of torch and Transformers, while modules that import them are executed and called."""
    torch = mock.MagicMock(name="torch")
    torch.OutOfMemoryError = TorchError
    torch.tensor = lambda rows, device: (rows, device)
    transformers = SimpleNamespace(GenerationConfig=lambda **settings: settings)
    ours = [name for name in sys.modules if name.startswith("images")]
    with mock.patch.dict(sys.modules, {"torch": torch, "transformers": transformers}):
        for name in ours:
            del sys.modules[name]
        yield torch
        for name in [name for name in sys.modules if name.startswith("images")]:
            del sys.modules[name]


@pytest.fixture
def adapter(torch: mock.MagicMock) -> ModuleType:
    return module_at(SHARED / "adapter.py")


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (TorchError("no room"), Outcome.OOM_KV),
        (MemoryError(), Outcome.OOM_KV),
        (RuntimeError("CUDA error: Out of memory"), Outcome.OOM_KV),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling"), Outcome.OOM_KV),
        (RuntimeError("Found no NVIDIA driver on your system"), Outcome.UNSUPPORTED),
        (RuntimeError("you have not enough memory"), None),
        (RuntimeError("anything else"), None),
    ],
)
def test_failures_are_known_by_type_or_text(adapter: ModuleType, error: BaseException, outcome: Outcome | None) -> None:
    assert adapter.TorchAdapter().classify(error) is outcome


def test_an_engine_adds_signs_of_its_own(adapter: ModuleType) -> None:
    class Own(adapter.TorchAdapter):  # type: ignore[misc, name-defined]  # the module is executed here
        out_of_memory = (*adapter.OUT_OF_MEMORY, *adapter.OUT_OF_HOST_MEMORY)
        unsupported = ("isn't supported yet",)

    assert Own().classify(RuntimeError("you have not enough memory")) is Outcome.OOM_KV
    assert Own().classify(RuntimeError("it isn't supported yet")) is Outcome.UNSUPPORTED
    assert Own().classify(adapter.Unsupported("asked for another kernel")) is Outcome.UNSUPPORTED


def test_torch_of_before_2_5_names_its_error_elsewhere(torch: mock.MagicMock) -> None:
    del torch.OutOfMemoryError
    torch.cuda.OutOfMemoryError = TorchError
    assert module_at(SHARED / "adapter.py").TorchAdapter().classify(TorchError("")) is Outcome.OOM_KV


@pytest.mark.parametrize("used", [True, False])
def test_a_device_is_asked_for_its_memory_only_where_it_was_used(
    torch: mock.MagicMock, adapter: ModuleType, used: bool
) -> None:
    torch.cuda.is_initialized.return_value = used
    adapter.TorchAdapter()._free()
    assert torch.cuda.empty_cache.called is used


def test_the_chosen_device_has_the_cells_threads_and_no_cudnn_attention(
    torch: mock.MagicMock, adapter: ModuleType
) -> None:
    adapter.chosen_device(SimpleNamespace(kind="cuda", threads=3))
    torch.set_num_threads.assert_called_once_with(3)
    torch.backends.cuda.enable_cudnn_sdp.assert_called_once_with(False)
    torch.device.assert_called_once_with("cuda:0")


class Model:
    """Generates: keeps what it was called with, and gives the rectangle with the columns 7, 2, 0 behind it."""

    def __init__(self) -> None:
        self.device = "cpu"
        self.called: dict[str, Any] = {}

    def generate(self, **words: Any) -> Any:
        self.called = words
        rows = [[*row, 7, 2, 0] for row in words["input_ids"][0]]

        class Output:
            def __getitem__(self, place: tuple[slice, slice]) -> SimpleNamespace:
                return SimpleNamespace(tolist=lambda: [row[place[1]] for row in rows])

        return Output()


def test_one_call_of_generate_pads_on_the_left_and_cuts_behind_the_end(torch: mock.MagicMock) -> None:
    class Own(module_at(SHARED / "generate.py").GenerateAdapter):  # type: ignore[misc]  # the module is executed here
        def _settings(self) -> dict[str, Any]:
            return {"disable_compile": True}

        def _arguments(self, rows: int, tokens: int) -> dict[str, Any]:
            return {"shape": (rows, tokens)}

    own = Own()
    own._model, own._device = Model(), "cpu"
    done = own.generate([[4, 5], [6]], Decoding(max_new_tokens=3, eos_token_ids=(2,)), SimpleNamespace(wanted=False))
    assert [list(row.token_ids) for row in done] == [[7, 2], [7, 2]]
    called = own.engine.called
    assert called["input_ids"] == ([[4, 5], [0, 6]], "cpu")
    assert called["attention_mask"] == ([[1, 1], [0, 1]], "cpu")
    assert (called["streamer"], called["shape"]) == (None, (2, 5))
    assert called["generation_config"] == {
        "do_sample": False, "max_new_tokens": 3, "eos_token_id": [2], "pad_token_id": 0, "disable_compile": True,
    }  # fmt: skip
    own.close()
    assert own.engine is None


def test_the_direct_call_gives_the_same_rectangle_without_the_adapters_code(torch: mock.MagicMock) -> None:
    direct = module_at(SHARED / "direct.py")
    model = Model()
    rows = direct.generate(SimpleNamespace(engine=model), [[4, 5], [6]], Decoding(max_new_tokens=3), use_cache=True)
    assert rows == [[7, 2, 0]] * 2
    assert model.called["input_ids"] == ([[4, 5], [0, 6]], "cpu")
    assert (model.called["eos_token_id"], model.called["use_cache"]) == (None, True)
    assert "images._torch.generate" not in sys.modules


def _images() -> list[Image]:
    catalogue = Catalogue()
    return [catalogue.get(name) for name in catalogue.names]


@pytest.mark.parametrize("image", _images(), ids=lambda image: image.name)
def test_an_image_that_imports_it_copies_it_into_the_targets_that_do_and_no_others(image: Image) -> None:
    """Where converting has a target of its own, what that alone imports is not in the measuring one."""
    importing = {path.name for path in image.folder.glob("*.py") if IMPORT.search(path.read_text(encoding="utf-8"))}
    stages = re.split(r"^FROM ", (image.folder / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    targets = [stage for stage in stages if " AS build" not in stage.splitlines()[0]]
    for stage in targets:
        measures = image.manifest.convert_target and stage.splitlines()[0].endswith(" AS measure")
        imported = {name for name in importing if not (measures and name.startswith("convert"))}
        assert ("COPY images/_torch /opt/bench/images/_torch\n" in stage) is bool(imported), stage.splitlines()[0]
    assert (SHARED in image.files) is bool(importing)


def test_what_an_image_is_made_of_names_what_it_shares() -> None:
    """A change of shared code is another recipe for those that use it, and for no other."""
    assert Catalogue().get("bitsandbytes").files == [ROOT / "images" / "bitsandbytes", SHARED]
    assert Catalogue().get("null").files == [ROOT / "images" / "null"]
    assert not (SHARED / "image.yaml").exists(), "it is no image"


def test_a_folder_without_a_dockerfile_shares_nothing(tmp_path: Path) -> None:
    assert Image(tmp_path, Catalogue().get("null").manifest).files == [tmp_path]


@pytest.fixture
def extension_wheel() -> ModuleType:
    return module_at(SHARED / "extension_wheel.py")


def test_a_wheel_that_is_compiled_already_is_taken_as_it_is(extension_wheel: ModuleType, tmp_path: Path) -> None:
    source = tmp_path / "engine-1.0-cp312-cp312-linux_x86_64.whl"
    source.write_bytes(b"compiled")
    extension_wheel.build(extension_wheel.Extension("engine", "engine_ext"), source, tmp_path / "out")
    assert [(path.name, path.read_bytes()) for path in (tmp_path / "out").iterdir()] == [(source.name, b"compiled")]


def test_a_wheel_of_sources_gets_its_extension(
    extension_wheel: ModuleType, torch: mock.MagicMock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With stand-ins for `wheel` and the compiler: which sources, flags and folders they get, and what is left."""
    (tmp_path / "cuda/lib64").mkdir(parents=True)
    (tmp_path / "cuda/lib64/libcudart.so.13").touch()
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cuda"))
    monkeypatch.setenv("PATH", "/usr/bin")
    compiled: dict[str, Any] = {}

    def wheel(command: str, *words: str) -> None:
        if command == "unpack":
            folder = Path(words[1]) / "engine-1.0/engine/engine_ext"
            folder.mkdir(parents=True)
            for name in ("a.cpp", "b.cu", "b.h"):
                (folder / name).touch()
        elif command == "pack":
            (library,) = Path(words[2]).glob("engine_ext*.so")
            (Path(words[1]) / "engine-1.0-py3-none-any.whl").write_bytes(library.read_bytes())
        else:
            Path(words[-1]).rename(Path(words[-1]).with_name("engine-1.0-tagged.whl"))

    def load(**words: Any) -> None:
        compiled.update(words)
        (Path(words["build_directory"]) / "engine_ext.so").write_bytes(b"library")

    cpp_extension = SimpleNamespace(load=load)
    modules = {"torch.utils": SimpleNamespace(cpp_extension=cpp_extension), "torch.utils.cpp_extension": cpp_extension}
    monkeypatch.setattr(extension_wheel, "wheel", wheel)
    source = tmp_path / "engine-1.0-py3-none-any.whl"
    with mock.patch.dict(sys.modules, modules):
        extension_wheel.build(
            extension_wheel.Extension("engine", "engine_ext", ("-O3",), ("-O2",)), source, tmp_path / "out"
        )
    assert [Path(path).name for path in compiled["sources"]] == ["a.cpp", "b.cu"]
    assert (compiled["extra_cflags"], compiled["extra_cuda_cflags"]) == (["-O3"], ["-O2"])
    assert str(tmp_path / "cuda/include") in compiled["extra_include_paths"]
    assert [(path.name, path.read_bytes()) for path in (tmp_path / "out").iterdir()] == [
        ("engine-1.0-tagged.whl", b"library")
    ]


@pytest.mark.parametrize("path", sorted(ROOT.glob("images/*/build_wheel.py")), ids=lambda path: path.parent.name)
def test_a_stage_that_compiles_copies_what_it_runs_and_no_more(path: Path) -> None:
    """Compiling takes minutes to an hour: a change of an adapter's code must not do it again."""
    dockerfile = (path.parent / "Dockerfile").read_text(encoding="utf-8")
    (stage,) = [stage for stage in re.split(r"^FROM ", dockerfile, flags=re.MULTILINE) if " AS build" in stage[:60]]
    copied = re.findall(r"images/_torch\S*", stage)
    assert copied == ["images/_torch/extension_wheel.py", "images/_torch/"]
    assert IMPORT.findall(path.read_text(encoding="utf-8"))
    own = (SHARED / "extension_wheel.py").read_text(encoding="utf-8")
    assert "bench_core" not in own
    assert not IMPORT.search(own)
