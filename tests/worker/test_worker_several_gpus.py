"""A cell on several GPUs, from the worker's command line to what is published, with GPUs that tell made-up numbers."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

import pytest
from worker_material import FAST, Place

from bench_core.contract.asked.manifest import MULTICAST_OFF, Manifest
from bench_core.contract.errors import BadInput, MachineFailure
from bench_core.contract.records import layout
from bench_core.contract.records.events import TelemetryEvent
from bench_core.contract.records.run import GpuInfo, RunRecord
from bench_core.contract.records.spec import CellSpec
from bench_core.report.conditions import run_conditions
from bench_core.report.document import cell_columns
from bench_core.report.write.cell_table import csv_table
from bench_core.runs.load import load_run
from bench_core.system import nvml
from bench_core.system.nvml import Together, given_gpus
from bench_core.verify.run import verify_run
from bench_core.worker import cli, resolve, standalone
from bench_core.worker.engine import image

IMAGES = Path(__file__).resolve().parents[2] / "images"
CARDS = [GpuInfo(uuid=f"GPU-{n}", name="N", memory_bytes=8 << 30, driver_version="1") for n in range(3)]


class Card:
    """A GPU whose readings follow from its number."""

    def __init__(self, uuid: str, *, deaf: bool = False) -> None:
        self._number = int(uuid.removeprefix("GPU-"))
        self._deaf = deaf

    def used_bytes(self) -> int | None:
        return None if self._deaf else 1000 + self._number

    def power_w(self) -> float | None:
        return 100.0 + self._number

    def energy_mj(self) -> int | None:
        return 5000 * (1 + self._number)

    def sm_clock_mhz(self) -> int | None:
        return 1900 - self._number

    def memory_clock_mhz(self) -> int | None:
        return 2600

    def temperature_c(self) -> int | None:
        return 50 + self._number

    def utilisation_percent(self) -> int | None:
        return 90 - 20 * self._number

    def throttle_reasons(self) -> int | None:
        return 1 << self._number


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A host of three GPUs."""
    for module in (resolve, standalone):
        monkeypatch.setattr(module, "given_gpus", lambda: list(CARDS))
    monkeypatch.setattr(nvml, "GpuReader", Card)
    return Place.prepared(tmp_path)


def measure(place: Place, *arguments: str) -> Path:
    words = place.arguments("--device", "cuda", *FAST, "--max-batches", "3", "--run-id", "r", *arguments)
    assert cli.main([word for word in words if word not in ("--run-id", "r")]) == 0
    (run,) = place.results.iterdir()
    return run


def test_a_cell_on_two_gpus_is_named_after_them_and_its_readings_are_sums(place: Place) -> None:
    run = measure(place, "--gpus-per-cell", "2", "--batch-size", "4")
    cell = layout.cell_folder(run, "null.scripted.b4.2gpu")
    spec = CellSpec.read(cell / layout.SPEC_FILE)
    assert (spec.gpus, spec.gpu_uuid, spec.cards) == (2, "GPU-0", ("GPU-0", "GPU-1"))
    assert spec.label == "null scripted, 2 GPUs"
    view = load_run(run)
    (row,) = view.rows
    assert row.result is not None
    told = row.result.metrics.telemetry
    assert told is not None
    assert (told.power_w, told.sm_clock_mhz, told.temperature_max_c) == (201.0, 1899.0, 51.0)
    assert told.utilisation == pytest.approx(0.8)
    memory = row.result.metrics.device_memory
    assert memory is not None
    assert memory.peak_bytes == 2001
    assert verify_run(run).differences == ()


def test_throughput_stands_beside_what_each_gpu_is_worth(place: Place) -> None:
    run = measure(place, "--gpus-per-cell", "2", "--batch-size", "4")
    view = load_run(run)
    line = next(csv.DictReader(io.StringIO(csv_table(view))))
    assert line["gpus"] == "2"
    assert float(line["throughput_per_gpu_tok_s"]) == pytest.approx(float(line["workload_throughput_tok_s"]) / 2)
    assert run_conditions(view)["gpu"].endswith(", 2 for each cell"), "no ranking with cells on one GPU"


def test_a_cell_on_one_gpu_is_as_it_was(place: Place) -> None:
    run = measure(place, "--batch-size", "4")
    text = (layout.cell_folder(run, "null.scripted.b4") / layout.SPEC_FILE).read_text(encoding="utf-8")
    assert '"gpus"' not in text
    assert '"gpu_uuids"' not in text
    assert '"gpus":' not in RunRecord.read(run / layout.RUN_FILE).cells[0].model_dump_json()
    view = load_run(run)
    assert "throughput_per_gpu_tok_s" not in {column.csv for column in cell_columns(view)}
    assert "for each cell" not in run_conditions(view)["gpu"]


def test_a_cell_that_names_other_cards_than_it_has_is_found(place: Place) -> None:
    run = measure(place, "--gpus-per-cell", "2", "--batch-size", "4")
    spec = layout.cell_folder(run, "null.scripted.b4.2gpu") / layout.SPEC_FILE
    whole = spec.read_text(encoding="utf-8")
    for damaged, what in (("GPU-0", "gpus is 2, and the cards that it names are 1"), ("GPU-9", "is no card of its")):
        spec.write_text(whole.replace('"GPU-1"', f'"{damaged}"'), encoding="utf-8")
        assert any(what in str(found) for found in verify_run(run).differences), damaged


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--device", "cuda", "--gpus-per-cell", "4"), "--gpus-per-cell 4, but 3 GPUs are here"),
        (("--device", "cpu", "--gpus-per-cell", "2"), "--gpus-per-cell 2, but the cells are on the CPU"),
    ],
)
def test_more_gpus_than_there_are_are_refused(
    place: Place, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
) -> None:
    assert cli.main(place.arguments(*arguments)) != 0
    assert words in capsys.readouterr().err


def test_an_engine_that_does_not_split_is_refused_with_the_reason(
    place: Place, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = tmp_path / "image"
    folder.mkdir()
    before, _, after = (IMAGES / "null" / "image.yaml").read_text(encoding="utf-8").partition("split:\n")
    (folder / "image.yaml").write_text(before + "serve:\n" + after.partition("serve:\n")[2], encoding="utf-8")
    words = place.arguments("--device", "cuda", "--gpus-per-cell", "2", image=folder)
    assert cli.main(words) == 2
    assert "image null does not split a model over GPUs" in capsys.readouterr().err


def test_what_one_gpu_does_not_tell_is_not_told_of_all() -> None:
    together = Together([Card("GPU-0"), Card("GPU-1", deaf=True)])
    assert together.used_bytes() is None
    assert together.energy_mj() == 15000
    assert together.throttle_reasons() == 0b11, "what holds one of them back holds all back"


def test_a_gpu_that_is_not_there_is_the_machines_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(uuid: str) -> Card:
        if uuid == "GPU-1":
            raise MachineFailure(f"GPU {uuid} does not answer through NVML")
        return Card(uuid)

    monkeypatch.setattr(nvml, "GpuReader", gone)
    assert nvml.reader_of(()) is None
    assert isinstance(nvml.reader_of(("GPU-0",)), Card), "one GPU is read as ever"
    with pytest.raises(MachineFailure, match="GPU GPU-1"):
        nvml.reader_of(("GPU-0", "GPU-1"))


def test_a_process_uses_the_gpus_that_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """NVML shows a plain process all GPUs of its host, whichever its launcher meant."""
    monkeypatch.setattr(nvml, "visible_gpus", lambda: list(CARDS))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [gpu.uuid for gpu in given_gpus()] == ["GPU-0", "GPU-1", "GPU-2"]
    for given, found in (("GPU-2,GPU-0", ["GPU-2", "GPU-0"]), ("GPU-1", ["GPU-1"]), ("0,1", 3)):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
        uuids = [gpu.uuid for gpu in given_gpus()]
        assert uuids == found if isinstance(found, list) else len(uuids) == found


def test_samples_of_several_gpus_are_one_column(place: Place) -> None:
    run = measure(place, "--gpus-per-cell", "3", "--batch-size", "4")
    events = (layout.cell_folder(run, "null.scripted.b4.3gpu") / layout.EVENTS_FILE).read_text(encoding="utf-8")
    samples = [TelemetryEvent.model_validate_json(line) for line in events.splitlines() if '"telemetry"' in line]
    assert {value for event in samples for value in event.energy_mj or ()} == {30000}


def test_multicast_is_off_where_there_are_several_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    folders = sorted(IMAGES.glob("*/image.yaml"))
    split = [manifest for manifest in (Manifest.load(path.parent) for path in folders) if manifest.split is not None]
    assert {"vllm", "transformers", "llama-cpp-python", "exllamav2"} <= {manifest.name for manifest in split}
    for manifest in split:
        assert manifest.environment_on(1) == manifest.environment
        assert MULTICAST_OFF.items() <= manifest.environment_on(2).items()
    vllm = next(manifest for manifest in split if manifest.name == "vllm")
    assert vllm.environment_on(2)["VLLM_ALLREDUCE_USE_SYMM_MEM"] == "0"
    null = next(manifest for manifest in split if manifest.name == "null")
    for gpus, there in ((1, set()), (2, {*MULTICAST_OFF})):
        monkeypatch.setattr(os, "environ", {})
        image.load_adapter(IMAGES / "null", null, gpus)
        assert os.environ.keys() & MULTICAST_OFF.keys() == there, "set before the engine is imported"


@pytest.mark.parametrize(
    ("split", "words"),
    [
        ("{how: tensor, words: by an option, variants: [other]}", "'other' is no variant"),
        ("{how: tensor, words: by an option, variants: [only]}", "says why the variants that are not named"),
        ("{how: tensor, words: by an option, refused: never}", "says why the variants that are not named"),
        ("{how: tensor, words: by an option, serve: []}", "the image has no server"),
        ("{how: tensor, words: by an option, environment: {NCCL_NVLS_ENABLE: '1'}}", "belongs to the launcher"),
        ("{how: pipeline, words: by an option}", "split.how"),
    ],
)
def test_a_wrong_declaration_is_refused(split: str, words: str) -> None:
    text = (
        "name: x\ntitle: X\nadapter: adapter:X\nbatching: native\ntoken_times: live\ndevices: [cuda]\npackages: []\n"
        f"variants:\n  only: {{artifact: none, default: true}}\nsplit: {split}\n"
    )
    with pytest.raises(BadInput) as refused:
        Manifest.parse_yaml(text, "image.yaml")
    assert words in str(refused.value)
