"""One model over several GPUs, as the driver plans, places and launches it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from conftest import Drive
from stand_ins import Together, two_prompts

from bench_core.contract.asked.manifest import MULTICAST_OFF, Manifest
from bench_core.contract.asked.scenario import Offline
from bench_core.contract.errors import BadInput
from bench_core.contract.records.run import GpuInfo
from bench_core.drive.ask.request import Request, Suite
from bench_core.drive.fleet import placement
from bench_core.drive.fleet.placement import deal_gpus, in_groups, put_together, workers_of
from bench_core.drive.launch import box
from bench_core.drive.launch.containers import options as containers
from bench_core.drive.launch.containers.launcher import DockerLauncher
from bench_core.drive.launch.launcher import Folders, Launch, Launcher
from bench_core.drive.launch.processes.launcher import _variables
from bench_core.drive.plan.catalogue import Catalogue
from bench_core.drive.plan.named import cell_parts
from bench_core.drive.plan.own_error import own_error_jobs
from bench_core.drive.plan.plan import make_plan
from bench_core.drive.run import gpus as gpus_module
from bench_core.drive.run.execute import Execution
from bench_core.drive.run.gpu_gate import GpuGate
from bench_core.drive.run.gpus import choose_gpus
from bench_core.drive.run.progress import Display
from bench_core.system.numa import Node
from bench_core.worker.serve.command import words_of

GIB = 1 << 30
TWO = (Node(0, tuple((n,) for n in range(8)), 64 * GIB), Node(1, tuple((n,) for n in range(8, 16)), 64 * GIB))
# As on a host whose cards are not numbered by node.
NODES = {"GPU-0": 0, "GPU-1": 1, "GPU-2": 0, "GPU-3": 1, "GPU-4": 0, "GPU-5": None}


def gpu(number: int) -> GpuInfo:
    return GpuInfo(uuid=f"GPU-{number}", name="N", memory_bytes=80 * GIB, driver_version="1")


def _uuids(found: Any) -> list[str]:
    return [card.uuid for card in found]


def test_a_cells_gpus_are_of_one_node_where_there_are_enough() -> None:
    grouped = in_groups([gpu(n) for n in range(5)], 2, NODES.get)
    assert _uuids(grouped) == ["GPU-0", "GPU-2", "GPU-1", "GPU-3"], "GPU-4 makes no whole group"
    rest = in_groups([gpu(n) for n in (0, 1, 4, 5)], 2, NODES.get)
    assert _uuids(rest) == ["GPU-0", "GPU-4", "GPU-1", "GPU-5"], "what is left over of two nodes is put together"
    assert _uuids(in_groups([gpu(n) for n in range(5)], 1, NODES.get)) == [f"GPU-{n}" for n in range(5)]


def test_where_none_is_named_one_cell_takes_the_first_of_one_node() -> None:
    present = [gpu(n) for n in range(5)]
    assert _uuids(choose_gpus((), present, 2, NODES.get)) == ["GPU-0", "GPU-2"]
    assert _uuids(choose_gpus((), present, 3, NODES.get)) == ["GPU-0", "GPU-2", "GPU-4"]
    assert _uuids(choose_gpus(("all",), present, 2, NODES.get)) == ["GPU-0", "GPU-2", "GPU-1", "GPU-3"]
    assert _uuids(choose_gpus(("3", "GPU-1"), present, 2, NODES.get)) == ["GPU-3", "GPU-1"]
    assert _uuids(choose_gpus((), present, 1, NODES.get)) == ["GPU-0"]


@pytest.mark.parametrize("wanted", [(), ("all",), ("0",)])
def test_fewer_gpus_than_a_cell_takes_are_refused(wanted: tuple[str, ...]) -> None:
    with pytest.raises(BadInput, match=r"--gpus-per-cell 2, but the GPUs to use are 1"):
        choose_gpus(wanted, [gpu(0)], 2, NODES.get)


def test_several_gpus_of_a_cell_have_their_shares_of_the_host_together() -> None:
    cards = in_groups([gpu(n) for n in range(4)], 2, NODES.get)
    single = deal_gpus(cards, [f"GPU-{n}" for n in range(4)], TWO, NODES.get, "docker")
    workers = put_together(single, 2)
    assert [worker.name for worker in workers] == ["GPU-0+GPU-2", "GPU-1+GPU-3"]
    assert [_uuids(worker.gpus) for worker in workers] == [["GPU-0", "GPU-2"], ["GPU-1", "GPU-3"]]
    first, second = (worker.placement for worker in workers)
    assert first is not None
    assert second is not None
    assert (first.cpus, first.mems, first.workers) == (tuple(range(8)), (0,), 2)
    assert (second.cpus, second.mems) == (tuple(range(8, 16)), (1,))
    assert first.memory_bytes == 2 * int(64 * GIB * 0.95 / 2)
    across = put_together(deal_gpus([gpu(0), gpu(1)], ["GPU-0", "GPU-1"], TWO, NODES.get, "docker"), 2)
    assert across[0].placement is not None
    assert across[0].placement.mems == (0, 1)


def test_a_single_group_has_all_of_its_host() -> None:
    (worker,) = workers_of([gpu(0), gpu(1)], None, "docker", 2)
    assert (worker.name, worker.placement, _uuids(worker.gpus)) == ("GPU-0+GPU-1", None, ["GPU-0", "GPU-1"])


# What is planned.


def _plan(**asked: Any) -> Any:
    return make_plan(Suite.model_validate({"gpus_per_cell": 2, "batch_sizes": (1,), **asked}), Catalogue(), "cuda")


def test_cells_are_named_after_their_gpus() -> None:
    plan = _plan(images=("vllm",), variants=("vllm.fp16",), batch_sizes=(1, 16), control="vllm.fp16.b1", repeats=2)
    assert [cell.cell for cell in plan.cells][:4] == [
        *("vllm.fp16.b1.2gpu", "vllm.fp16.b16.2gpu", "vllm.fp16.b1.2gpu.r2", "vllm.fp16.b16.2gpu.r2"),
    ]
    assert {cell.label for cell in plan.cells} == {"vLLM 16-bit, 2 GPUs"}
    assert all(cell.cell == cell.cell_id for cell in plan.cells)
    (own,) = own_error_jobs(plan, Catalogue(), 1, 64)
    assert own.cells == ("null.harness.b1.2gpu", "null.harness.b16.2gpu"), "the suite's own error is of the same GPUs"


def test_a_cell_may_be_named_with_its_gpus() -> None:
    for name in ("null.scripted.b4.2gpu", "null.scripted.b4"):
        image, variant, scenario = cell_parts(name, "--control", Catalogue())
        assert (image.name, variant, scenario) == ("null", "scripted", Offline(batch_size=4))


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"images": ("bitsandbytes",)}, "image bitsandbytes does not split a model over GPUs"),
        (
            {"images": ("transformers",), "variants": ("transformers.fp16-compiled",)},
            "transformers.fp16-compiled does not split its model over GPUs: its CUDA graphs",
        ),
        (
            {"images": ("transformers",), "batch_sizes": (), "concurrency": (4,)},
            "the server of transformers does not split a model over GPUs",
        ),
        (
            {"images": ("vllm",), "control": "bitsandbytes.nf4.b1"},
            "image bitsandbytes does not split a model over GPUs",
        ),
    ],
)
def test_what_is_not_split_is_refused_with_the_reason(asked: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput) as refused:
        _plan(**asked)
    assert words in str(refused.value)
    assert refused.value.hint


def test_of_all_images_those_that_do_not_split_are_left_out_with_the_reason() -> None:
    plan = _plan(images=("all",))
    assert {job.image.name for job in plan.grid} == {
        "exllamav2",
        "llama-cpp-python",
        "lmdeploy",
        "sglang",
        "null",
        "transformers",
        "vllm",
    }
    assert "image bitsandbytes does not split a model over GPUs" in plan.left_out
    some = _plan(images=("transformers",), variants=("all",))
    assert [job.variant for job in some.grid] == ["fp16", "fp32", "bf16"]
    assert any("fp16-compiled does not split" in reason for reason in some.left_out)


def test_on_a_cpu_and_on_too_few_gpus_a_run_is_refused(drive: Drive, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ("--images", "null", "--gpus-per-cell", "2", "--dry-run")
    called = drive(*asked, "--device", "cpu", "--launcher", "process")
    assert called.code == 2
    assert "--gpus-per-cell 2, but the run is on the CPU" in called.err
    monkeypatch.setattr(gpus_module, "visible_gpus", lambda: [gpu(0)])
    called = drive(*asked, "--device", "cuda", "--launcher", "process")
    assert called.code == 2
    assert "--gpus-per-cell 2, but the GPUs to use are 1" in called.err


def test_the_plan_says_over_how_many_gpus_a_model_is_split(drive: Drive, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (gpus_module, placement):
        monkeypatch.setattr(module, "visible_gpus", lambda: [gpu(n) for n in range(4)])
    asked = ("--images", "null", "--device", "cuda", "--launcher", "process", "--gpus", "all", "--dry-run")
    called = drive(*asked, "--gpus-per-cell", "2", "--batch-sizes", "1,2,4,8")
    assert called.code == 0, called.err
    assert "each model over 2 GPUs" in called.out
    assert "side by side: 2 launches at a time" in called.out
    assert "control: null.scripted.b8.2gpu, measured first, on each of 2 devices" in called.out
    assert "each model over" not in drive(*asked).out


# What is launched.


class Gate:
    """Notes which cards are looked at; the second card of a pair is busy."""

    def __init__(self) -> None:
        self.entered: list[str] = []
        self.left: list[str] = []

    def begin(self, uuid: str) -> None: ...

    def enter(self, uuid: str, _stopping: Any) -> str:
        self.entered.append(uuid)
        return "the GPU was busy" if uuid in ("GPU-1", "GPU-3") else ""

    def leave(self, uuid: str, _what: str) -> None:
        self.left.append(uuid)


def test_four_gpus_run_two_launches_of_two_at_once(tmp_path: Path) -> None:
    suite = Suite(images=("null",), gpus_per_cell=2, batch_sizes=(1,), repeats=4)
    plan, launcher, gate = make_plan(suite, Catalogue(), "cuda"), Together(2), Gate()
    cards = [gpu(n) for n in range(4)]
    execution = Execution(
        Request(suite=suite, data=tmp_path), plan, cast(Launcher, launcher), cards, Display(),
        gate=cast(GpuGate, gate),
    )  # fmt: skip
    assert [worker.name for worker in execution.workers] == ["GPU-0+GPU-1", "GPU-2+GPU-3"]
    prepared, run = two_prompts(tmp_path)
    finished = execution.measure(prepared, run, {})
    assert sorted(finished.verdicts) == [f"null.scripted.b1.2gpu{r}" for r in ("", ".r2", ".r3", ".r4")]
    assert {tuple(_uuids(launch.gpus)) for launch in launcher.launched} == {("GPU-0", "GPU-1"), ("GPU-2", "GPU-3")}
    assert sorted(gate.entered) == sorted(gate.left) == sorted(_uuids(cards) * 2), "each card of a pair is looked at"
    for launch in launcher.launched:
        assert launch.placement is not None
        assert launch.placement.worker == "+".join(_uuids(launch.gpus))
        assert launch.arguments[launch.arguments.index("--marked") + 1] == "the GPU was busy"


class Engine:
    """A Docker engine that notes what it is asked to make."""

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}
        self.containers = SimpleNamespace(create=self._create)

    def _create(self, **options: Any) -> object:
        self.asked = options
        return object()


def _created(tmp_path: Path, *cards: GpuInfo) -> dict[str, Any]:
    engine = Engine()
    launch = Launch(Catalogue().get("vllm"), "measure", (), Folders(tmp_path, "hf"), gpu=cards[0], other_gpus=cards[1:])
    DockerLauncher(cast(Any, engine))._create(launch)
    return engine.asked


def test_a_container_sees_its_gpus_and_its_multicast_is_off(tmp_path: Path) -> None:
    asked = _created(tmp_path, gpu(2), gpu(3))
    (request,) = asked["device_requests"]
    assert request.device_ids == ["GPU-2", "GPU-3"]
    assert asked["environment"] == MULTICAST_OFF
    assert "environment" not in _created(tmp_path, gpu(2)), "one GPU: nothing is changed"
    assert asked["network_mode"] == "none", "NCCL needs none within a host"
    assert asked["read_only"] is True
    assert asked["cap_drop"] == ["ALL"]


# vLLM's queue between its processes: ten pieces of 16 MiB, one queue to all and one back from each.
def _queues_bytes(gpus: int) -> int:
    return (1 + gpus) * 10 * 16 * 1024**2


# NCCL, where peers have no NVLink or PCIe between them: buffers of up to 32 channels of 4 MiB + 0.5 MiB for each peer.
def _nccl_bytes(gpus: int) -> int:
    return gpus * (gpus - 1) * 32 * (9 << 19)


@pytest.mark.parametrize(("gpus", "host_gib"), [(2, 8), (4, 32), (8, 128)])
def test_shared_memory_is_enough_for_nccl_and_the_engines_queues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpus: int, host_gib: int
) -> None:
    """By Docker's default it would be 64 MiB."""
    monkeypatch.setattr(box, "memory_bytes", lambda: host_gib * GIB)
    assert vars(containers)["limits"] is box.limits
    asked = _created(tmp_path, *map(gpu, range(gpus)))
    assert asked["shm_size"] >= _queues_bytes(gpus) + _nccl_bytes(gpus)


def test_a_process_gets_its_gpus_by_uuid(tmp_path: Path) -> None:
    launch = Launch(Catalogue().get("null"), "measure", (), Folders(tmp_path, "none"), gpu=gpu(1), other_gpus=(gpu(0),))
    variables = _variables(tmp_path, str(tmp_path), launch)
    assert variables["CUDA_VISIBLE_DEVICES"] == "GPU-1,GPU-0"
    assert MULTICAST_OFF.items() <= variables.items()


@pytest.mark.parametrize(
    ("image", "variant", "more"),
    [
        ("vllm", "gptq", ("--tensor-parallel-size", "{gpus}")),
        ("llama-cpp-python", "q4_k_m", ("--split-mode", "{split_mode}", "--tensor-split", "{even_shares}")),
    ],
)
def test_a_server_is_told_of_its_gpus(image: str, variant: str, more: tuple[str, ...]) -> None:
    manifest: Manifest = Catalogue().get(image).manifest
    serve = SimpleNamespace(prefix_cache=False)
    specs = [cast(Any, SimpleNamespace(variant=variant, serve=serve, gpus=n)) for n in (1, 2)]
    one, two = (words_of(manifest, spec, frozenset({4})) for spec in specs)
    assert two == (*one, *more)
