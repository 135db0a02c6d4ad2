"""Launches on the nodes of a cluster: each is a task of Ray's, which also queues them where others use a node."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from queue import SimpleQueue
from typing import Any

from bench_core.contract.errors import BadInput, MachineFailure
from bench_core.contract.records import layout
from bench_core.drive.cluster.link import Demand, Link, Member
from bench_core.drive.cluster.post import Item
from bench_core.drive.cluster.records import ClientPlace, EndedThere, Order, Terms
from bench_core.drive.fleet.executor import Event, Failed, Free, Lost, Over, Said, Task, Worker
from bench_core.drive.launch.launcher import Ended
from bench_core.system.files import write_file

_ROUNDS = 2  # the call that was on its way when a task ended may have come before its last words
_PATIENCE_S = 2.0  # how long a call of the cluster waits until it looks around


@dataclass(frozen=True)
class Slot:
    """A worker of the driver's: a share of a node, or any one GPU of it.

    Attributes:
        share: number of the share among those of the node.
        serve_address: of the node, that a load from others reaches its server on.
    """

    worker: Worker
    member: Member
    demand: Demand
    share: int = 0
    serve_address: str = ""


@dataclass(frozen=True)
class Senders:
    """Where loads come from.

    Attributes:
        of: the nodes of each server, those that are taken first first; no two servers have one in common.
        count: for each launch under load.
        cpus: that each needs.
        wait_s: how long one may have something else to do.
    """

    of: dict[str, tuple[Member, ...]]
    count: int
    cpus: float
    wait_s: float


@dataclass
class _Running:
    """
    Attributes:
        begun: it has left Ray's queue.
        failed: a failure of it was told.
        rounds: its task is over: how often the mailbox is still emptied before that counts as its end.
        failure: how the task ended, where not well.
    """

    slot: Slot
    task: Task
    reference: Any
    begun: bool = False
    failed: bool = False
    rounds: int | None = None
    failure: MachineFailure | None = None


class RayExecutor:
    """The executor of a cluster.

    Args:
        key_of: the parcels that hold the model and the data of a task.
        images_of: tags of its containers to what they hold.
        tell: takes one line that is for people.
        senders: nodes that loads come from; ``None``: from the servers' own.
    """

    def __init__(
        self,
        link: Link,
        slots: Sequence[Slot],
        terms: Terms,
        key_of: Callable[[Task], tuple[str, str]],
        images_of: Callable[[Task], dict[str, str]],
        tell: Callable[[str], None],
        senders: Senders | None = None,
    ) -> None:
        self._link = link
        self._senders = senders
        self._slots = {slot.worker: slot for slot in slots}
        self._terms = terms
        self._key_of = key_of
        self._images_of = images_of
        self._tell = tell
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._running: dict[int, _Running] = {}
        self._lock = threading.Lock()
        self._number = 0
        self._stops = 0
        self._unfit: dict[str, str] = {}
        self._suspects: set[str] = set()
        self._post = link.post()
        self._wake = threading.Event()
        self._closed = False
        self._listener = threading.Thread(target=self._listen, name="cluster", daemon=True)
        self._listener.start()

    @property
    def workers(self) -> tuple[Worker, ...]:
        """Of the nodes that can be used, as far as that is known."""
        return tuple(worker for worker, slot in self._slots.items() if slot.member.name not in self._unfit)

    def leave_out(self, node: str, why: str) -> None:
        """Nothing is begun on this node any more."""
        self._unfit[node] = why

    def submit(self, task: Task, worker: Worker) -> None:
        """As a task of Ray's."""
        slot = self._slots[worker]
        self._number += 1
        number = self._number
        try:
            if slot.member.name in self._unfit:
                raise MachineFailure(self._unfit[slot.member.name])
            order = self._order(number, task, slot).to_json()
            with self._lock:
                self._running[number] = _Running(
                    slot, task, self._link.begin(order, self._post, slot.member, slot.demand)
                )
        except MachineFailure as error:
            self._events.put(Lost(worker, error.cause))
        self._wake.set()

    def next_event(self) -> Event:
        """Waits; a signal is handled meanwhile."""
        return self._events.get()

    def stop(self) -> None:
        """To every launch; what has not begun does not begin. In a thread: a signal may have interrupted Ray."""
        self._stops += 1
        threading.Thread(target=self._send_stop, name="stop", daemon=True).start()

    def close(self) -> None:
        """No launch is running any more."""
        self._closed = True
        self._wake.set()
        self._listener.join(timeout=2 * _PATIENCE_S)
        self._link.end(self._post)

    def _clients(self, worker: Worker) -> tuple[ClientPlace, ...]:
        """The nodes of this server that live, those last that something was wrong with."""
        senders = self._senders
        if senders is None:
            return ()
        living = {member.node_id for member in self._link.members()}
        mine = [one for one in senders.of[worker.name] if one.node_id in living]
        mine.sort(key=lambda one: one.name in self._suspects)
        return tuple(ClientPlace(node_id=one.node_id, name=one.name, cpus=senders.cpus) for one in mine)

    def _order(self, number: int, task: Task, slot: Slot) -> Order:
        launch = task.launch
        served = bool(launch.client_processes)
        model_key, data_key = self._key_of(task)
        return Order(
            number=number,
            terms=self._terms,
            node=slot.member.name,
            share=slot.share,
            workers=len(self._slots),
            image=launch.image.name,
            arguments=launch.arguments,
            assignment=task.assignment,
            artifact=launch.folders.artifact,
            model=launch.folders.model.name,
            model_key=model_key,
            data_key=data_key,
            labels=dict(launch.labels),
            silence_limit_s=launch.silence_limit_s,
            served=launch.client_processes,
            title=task.title,
            mark=task.mark,
            pause_s=task.pause_s,
            gated=task.gated,
            results=launch.folders.run is not None,
            images=self._images_of(task),
            clients=self._clients(slot.worker) if served else (),
            client_nodes=self._senders.count if self._senders is not None and served else 0,
            serve_address=slot.serve_address,
            clients_wait_s=self._senders.wait_s if self._senders is not None else 0.0,
        )

    def _send_stop(self) -> None:
        with contextlib.suppress(Exception):
            self._post.stop.remote()
        with self._lock:
            waiting = [one.reference for one in self._running.values() if not one.begun]
        for reference in waiting:
            self._link.drop(reference)

    # --- one thread hears of everything -------------------------------------------------------------------------------

    def _listen(self) -> None:
        mail: Any = None
        while not self._closed:
            with self._lock:
                followed = {one.reference: one for one in self._running.values() if one.rounds is None}
                idle = not self._running
            if idle:
                self._wake.wait(_PATIENCE_S)
                self._wake.clear()
                continue
            try:
                if mail is None:
                    mail = self._post.take.remote(_PATIENCE_S)
                ready = self._link.first([mail, *followed], 2 * _PATIENCE_S)
                for reference in ready:
                    if reference in followed:
                        self._noticed(followed[reference])
                if mail in ready:
                    self._deliver(self._link.get(mail))
                    mail = None
                    self._round()
            except Exception as error:  # noqa: BLE001  # the head is gone, and all that is known with it
                mail = None
                self._all_lost(error.cause if isinstance(error, BadInput) else str(error))

    def _noticed(self, one: _Running) -> None:
        """Ray says that a task is over; what it said before may still be in the mailbox."""
        one.rounds = _ROUNDS
        try:
            self._link.get(one.reference)
        except MachineFailure as error:
            one.failure = error

    def _round(self) -> None:
        """The mailbox was emptied: a task that is over and has not said so was lost."""
        with self._lock:
            silent = [(number, one) for number, one in self._running.items() if one.rounds is not None]
        for number, one in silent:
            assert one.rounds is not None  # noqa: S101  # see above
            one.rounds -= 1
            if one.rounds:
                continue
            with self._lock:
                self._running.pop(number, None)
            worker = one.slot.worker
            if one.failed or (self._stops and not one.begun):
                self._events.put(Free(worker))
            else:
                cause = one.failure.cause if one.failure is not None else "its task ended without a word"
                self._events.put(Lost(worker, cause))

    def _all_lost(self, cause: str) -> None:
        with self._lock:
            lost, self._running = list(self._running.values()), {}
        for one in lost:
            self._events.put(Free(one.slot.worker) if one.failed else Lost(one.slot.worker, cause))

    def _deliver(self, items: Sequence[Item]) -> None:
        for number, kind, what in items:
            with self._lock:
                one = self._running.get(number)
            if one is None:  # given up, and it still speaks
                continue
            if kind == "free":
                with self._lock:
                    del self._running[number]
                self._events.put(Free(one.slot.worker))
            elif not one.failed:  # what follows is of no use
                try:
                    self._take(one, kind, what)
                except (OSError, BadInput) as error:
                    one.failed = True
                    self._events.put(Failed(one.slot.worker, error))

    def _take(self, one: _Running, kind: str, what: Any) -> None:
        """
        Raises:
            OSError: a file cannot be written here.
            MachineFailure: the node has failed the launch, or sent what is none of its business.
        """
        worker = one.slot.worker
        if kind == "begun":
            one.begun = True
        elif kind == "note":
            self._tell(str(what))
        elif kind == "suspect":
            self._suspects.add(str(what))
        elif kind == "file":
            self._write(one.task, *what)
        elif kind == "line":
            self._events.put(Said(worker, what))
        elif kind == "over":
            self._events.put(Over(worker, Ended(**dict(EndedThere.parse(what, "ended")))))
        elif kind == "failed":
            cause, hint = what
            raise MachineFailure(f"{one.slot.member.name}: {cause}", hint)

    @staticmethod
    def _write(task: Task, name: str, offset: int, content: bytes) -> None:
        """Into the run's folder, which this process alone writes. Of a cell's files the verdict is flushed to the disk:
        it comes last, and holds the digest of the log, so that a cell of which something is missing is not complete."""
        run = task.launch.folders.run
        assert run is not None  # noqa: S101  # a launch without one has no files
        path = _below(run, name)
        if offset:
            with path.open("r+b") as stream:
                stream.seek(offset)
                stream.write(content)
        elif path.name == layout.OUTCOME_FILE:
            write_file(path, content)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}")
            temporary.write_bytes(content)
            temporary.replace(path)


def _below(run: Path, name: str) -> Path:
    """A node may send files of cells and the like, and nothing that the driver writes itself.

    Raises:
        MachineFailure: it is something else.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or len(path.parts) < 2 or any(part.startswith(".") for part in path.parts):
        raise MachineFailure(f"a node sent a file that is no cell's: {name[:100]!r}")
    return run.joinpath(*path.parts)
