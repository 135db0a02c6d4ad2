"""What runs on a node: looks at it, takes what launches read, and runs a launch as the host's own pool does."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO, Any

from bench_core.contract.errors import BadInput, MachineFailure, first_line
from bench_core.contract.measures.cpu_use import BusyRule
from bench_core.contract.records.digest import entries_sha256, file_sha256, files_below
from bench_core.contract.records.placement import Placement
from bench_core.contract.records.run import GpuInfo
from bench_core.drive.cluster.clients import Clients
from bench_core.drive.cluster.images import ImageShelf
from bench_core.drive.cluster.mail import Mail
from bench_core.drive.cluster.records import EndedThere, NodeReport, Order, Terms
from bench_core.drive.fleet.executor import Failed, Free, Over, Said, Task, Worker
from bench_core.drive.fleet.placement import workers_of
from bench_core.drive.fleet.pool import HostPool
from bench_core.drive.launch.launcher import Folders, Launch, Launcher
from bench_core.drive.launch.launcher_choice import choose_launcher
from bench_core.drive.launch.published import Published, own_addresses
from bench_core.drive.plan.catalogue import REPOSITORY, Catalogue, Image
from bench_core.drive.plan.engine_versions import with_versions
from bench_core.drive.run.assignment import clear_left_over
from bench_core.drive.run.cpu_gate import CpuGate
from bench_core.drive.run.gpu_gate import GpuGate
from bench_core.system.locks import Locks
from bench_core.system.nvml import visible_gpus
from bench_core.system.processor import this_host

FOLDER_VARIABLE = "BENCH_NODE_FOLDER"
_CODE = ("bench_core", "images", "docker")
_KEY_LENGTH = 64


def node_folder() -> Path:
    """Where a node keeps what it was sent: ``~/.cache/llm-bench/node``, or what ``BENCH_NODE_FOLDER`` says there."""
    return Path(os.environ.get(FOLDER_VARIABLE) or Path.home() / ".cache" / "llm-bench" / "node")


def clone_sha256() -> str:
    """Digest of the repository's state that decides what a launch does."""
    files = [file for name in _CODE for file in files_below(REPOSITORY / name)]
    return entries_sha256((file.relative_to(REPOSITORY).as_posix(), file_sha256(file)) for file in files)


def parcel_folder(key: str) -> Path:
    """Of a parcel that has arrived whole."""
    if len(key) != _KEY_LENGTH or not key.isalnum():
        raise BadInput(f"{key[:80]!r} is no digest")
    return node_folder() / "parcels" / key


@lru_cache(maxsize=4)
def _images_here(engine_version: tuple[tuple[str, tuple[str, ...]], ...]) -> Catalogue:
    return with_versions(Catalogue(), dict(engine_version))


def image_here(terms: Terms, name: str) -> Image:
    """An image of this node's clone."""
    return _images_here(tuple(sorted(terms.engine_version.items()))).get(name)


def usual_priority() -> str:
    """Ray runs its workers with niceness 15, which what they start would inherit; why that stays, or nothing."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, 0)
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    return f"what Ray starts there has niceness {nice}: set RAY_worker_niceness=0 for ray start" if nice > 0 else ""


class Porter:
    """An actor on a node, for all that comes before the launches."""

    def __init__(self) -> None:
        self._open: dict[str, _Arriving] = {}

    def look(self, terms_json: str) -> str:
        """A :class:`NodeReport`."""
        terms = Terms.parse(terms_json, "terms")
        told: list[str] = []
        gpus = tuple(visible_gpus()) if terms.device == "cuda" else ()
        shares: tuple[Placement, ...] = ()
        problem = ""
        try:
            choose_launcher(terms.launcher).launcher.clear_orphans(told.append)
            workers = workers_of(gpus, terms.cpu_slices, terms.launcher)
            shares = tuple(worker.placement or Placement(worker=worker.name, workers=1) for worker in workers)
            if terms.device == "cuda" and not gpus:
                problem = "NVML shows no GPU there"
            node_folder().mkdir(parents=True, exist_ok=True)
            if terms.launcher == "process":  # containers are the engine's, not Ray's
                problem = problem or usual_priority()
        except (BadInput, OSError) as error:
            problem = error.cause if isinstance(error, BadInput) else first_line(error)
        return NodeReport(
            host=this_host(), code=clone_sha256(), gpus=gpus, shares=shares, addresses=own_addresses(),
            problem=problem, removed=tuple(told),
        ).to_json()  # fmt: skip

    def look_as_client(self) -> str:
        """A :class:`NodeReport` of a node that only sends a load: it needs neither device nor Docker nor a folder."""
        return NodeReport(
            host=this_host(), code=clone_sha256(), addresses=own_addresses(), problem=usual_priority()
        ).to_json()

    def lacks(self, keys: list[str]) -> list[str]:
        """Parcels that are not here."""
        return [key for key in keys if not parcel_folder(key).is_dir()]

    def begin(self, key: str) -> None:
        """A parcel is about to come."""
        self._open[key] = _Arriving(parcel_folder(key))

    def piece(self, key: str, name: str, content: bytes) -> None:
        """The next bytes of a file; the first of a name begin it."""
        self._open[key].take(name, content)

    def end(self, key: str, digests: Mapping[str, str]) -> None:
        """All has come.

        Raises:
            MachineFailure: it is not what was sent.
        """
        self._open.pop(key).end(digests)

    def install(self, terms_json: str, names: list[str], *, client: bool) -> None:
        """Environments of the process launcher, made here with this node's pip.

        Raises:
            BadInput: one cannot be made.
        """
        terms = Terms.parse(terms_json, "terms")
        launcher = choose_launcher(terms.launcher).launcher
        for name in names:
            launcher.ensure(image_here(terms, name), "measure", terms.device, lambda _line: None)
        if client:
            launcher.ensure_client(terms.device, lambda _line: None)

    def image_is_here(self, tag: str, identity: str) -> bool:
        """Whether this node's Docker engine has the image."""
        return ImageShelf().identity(tag) == identity

    def pull_image(self, reference: str, tag: str, identity: str) -> str:
        """From a registry; why not, or nothing."""
        return ImageShelf().pull(reference, tag, identity)

    def load_image(self, key: str, tag: str, identity: str) -> None:
        """From a parcel with one file, which is not kept.

        Raises:
            MachineFailure: the engine does not take it, or makes another image of it.
        """
        folder = parcel_folder(key)
        try:
            for path in files_below(folder):
                ImageShelf().load(path, tag, identity)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


class _Arriving:
    """A parcel on its way: written beside its place, renamed into it once it is known to be whole."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        self._home = Path(tempfile.mkdtemp(prefix=f".{folder.name[:12]}.", dir=folder.parent))
        self._home.chmod(0o755)  # root's boxes are nobody's
        self._digests: dict[str, Any] = {}
        self._stream: IO[bytes] | None = None

    def take(self, name: str, content: bytes) -> None:
        """Files come one after the other."""
        if name not in self._digests:
            self._close()
            path = self._home / _below(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = path.open("xb")
            self._digests[name] = hashlib.sha256()
        assert self._stream is not None  # noqa: S101
        self._stream.write(content)
        self._digests[name].update(content)

    def end(self, digests: Mapping[str, str]) -> None:
        """Into its place, where nobody else has put it meanwhile."""
        self._close()
        try:
            if {name: digest.hexdigest() for name, digest in self._digests.items()} != dict(digests):
                raise MachineFailure(f"parcel {self._folder.name[:12]} arrived damaged", "again")
            if not self._folder.is_dir():
                self._home.rename(self._folder)
        except OSError:
            if not self._folder.is_dir():
                raise
        finally:
            shutil.rmtree(self._home, ignore_errors=True)

    def _close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None


def _below(name: str) -> Path:
    path = PurePosixPath(name)
    if path.is_absolute() or not path.parts or ".." in path.parts:
        raise BadInput(f"{name[:80]!r} is no name below a folder")
    return Path(path)


def run_order(order_json: str, post: Any) -> None:
    """One launch, as a task of Ray's; all that is to be known of it goes through the mailbox.

    Raises:
        Exception: the mailbox has gone.
    """
    import ray  # noqa: PLC0415  # there is one where this runs

    order = Order.parse(order_json, "order")
    usual_priority()
    scratch = node_folder() / "work" / f"{os.getpid()}-{order.number}"
    folder = scratch / order.terms.run if order.results else None
    pool: list[HostPool] = []
    stopped = threading.Event()

    def on_stop() -> None:
        stopped.set()
        for one in pool:
            one.stop()

    mail = Mail(order.number, lambda items: int(ray.get(post.put.remote(items))), folder, on_stop)
    mail.send("begun", order.node)
    locks = Locks()
    clients: Clients | None = None
    try:
        if folder is not None:
            folder.mkdir(parents=True)
        gpus = [str(one) for one in ray.get_gpu_ids()] if order.terms.device == "cuda" else []
        worker = _worker(order, gpus)
        if order.terms.device == "cpu" and order.terms.cpu_slices is None:
            locks.hold_cpus(order.terms.run)
        elif worker.gpu is not None:
            locks.hold_gpu(worker.gpu.uuid, order.terms.run)
        _require_images(order)
        clear_left_over(parcel_folder(order.data_key))
        pool.append(_pool(order, worker, locks, mail))
        published: Published | None = None
        if order.client_nodes:
            published = Published.on(order.serve_address, order.client_nodes)
            clients = Clients(order.clients, order.client_nodes, order.clients_wait_s, stopped.is_set)
            clients.begin(published)
        if not stopped.is_set():
            _follow(pool[0], _task(order, folder, published), worker, mail)
        if clients is not None and not stopped.is_set():
            for name, words in clients.problems().items():
                mail.send("suspect", name)
                mail.send("note", f"client node {name}: {words}")
    except Exception as error:  # noqa: BLE001  # whatever it is: of this node, and the driver's to judge
        mail.send("failed", _cause(error))
    finally:
        if clients is not None:
            clients.close()
        locks.close()
        mail.send("free")
        try:
            mail.close()
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _require_images(order: Order) -> None:
    """Names of images are everybody's on a node.

    Raises:
        MachineFailure: somebody has given one to another image since the run began.
    """
    shelf = ImageShelf() if order.images else None
    for tag, identity in order.images.items():
        if shelf is not None and shelf.identity(tag) != identity:
            raise MachineFailure(
                f"{tag} is another image than this run's", "another driver has built or sent it; --resume"
            )


def _follow(pool: HostPool, task: Task, worker: Worker, mail: Mail) -> None:
    pool.submit(task, worker)
    while True:
        event = pool.next_event()
        if isinstance(event, Said):
            mail.send("line", event.line)
        elif isinstance(event, Over):
            mail.send("over", EndedThere(**asdict(event.ended)).to_json())
        elif isinstance(event, Failed):
            mail.send("failed", _cause(event.error))
        elif isinstance(event, Free):
            return


def _cause(error: BaseException) -> tuple[str, str]:
    if isinstance(error, BadInput):
        return error.cause, error.hint
    return f"{type(error).__name__}: {first_line(error)}", ""


def _worker(order: Order, gpus: list[str]) -> Worker:
    """The node's device for this launch, with its share of the node.

    Raises:
        MachineFailure: Ray has given a GPU that NVML does not show.
    """
    terms, named = order.terms, None
    present: list[GpuInfo] = []
    if terms.device == "cuda":
        present = visible_gpus()
        named = next((gpu for index, gpu in enumerate(present) if gpus and gpus[0] in (str(index), gpu.uuid)), None)
        if named is None:
            raise MachineFailure(f"Ray has given GPU {', '.join(gpus) or 'none'}, and NVML shows no such one", "")
    workers = workers_of(present, terms.cpu_slices, terms.launcher)
    found = next((one for one in workers if one.gpu == named), None) if named is not None else workers[order.share]
    assert found is not None  # noqa: S101  # workers_of has one for each GPU
    own = found.placement or Placement(worker=found.name, workers=1)
    place = own.model_copy(
        update={"worker": worker_name(order.node, own.worker), "workers": order.workers, "host": order.node}
    )
    return Worker(place.worker, named, place)


def worker_name(node: str, worker: str) -> str:
    """Of a share of a node: a GPU's UUID as it is, since no other has it; else the node's name with the share's."""
    if worker.startswith(("GPU-", "MIG-")):
        return worker
    return node if worker == "CPU" else f"{node} {worker}"


def _pool(order: Order, worker: Worker, locks: Locks, mail: Mail) -> HostPool:
    terms = order.terms
    launcher: Launcher = choose_launcher(terms.launcher).launcher

    def tell(text: str) -> None:
        mail.send("note", f"{order.node}: {text}")

    gate = GpuGate(terms.on_busy, terms.busy_wait_s, tell)
    if worker.gpu is not None:
        gate.begin(worker.gpu.uuid)
    rule = BusyRule(cpus=terms.busy_cpus)
    alone = terms.device == "cpu" and terms.cpu_slices in (None, 1)
    return HostPool(
        launcher, [worker], locks, gate, CpuGate(terms.on_busy, terms.busy_wait_s, rule, tell) if alone else None
    )


def _task(order: Order, folder: Path | None, published: Published | None) -> Task:
    data = parcel_folder(order.data_key)
    folders = Folders(parcel_folder(order.model_key) / order.model, order.artifact, data=data, run=folder)
    launch = Launch(
        image=image_here(order.terms, order.image),
        target="measure",
        arguments=order.arguments,
        folders=folders,
        labels=order.labels,
        silence_limit_s=order.silence_limit_s,
        client_processes=order.served,
        published=published,
    )
    return Task(launch, order.assignment, order.title, order.mark, order.pause_s, gated=order.gated)
