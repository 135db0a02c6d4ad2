"""What launches read, on its way to the nodes: each thing once to each node that has not got it, by its digest."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench_core.contract.errors import MachineFailure
from bench_core.contract.records import layout
from bench_core.contract.records.artifact import ArtifactRecord
from bench_core.contract.records.digest import entries_sha256, file_sha256, files_below
from bench_core.drive.cluster.link import Link
from bench_core.drive.material.prepared import Prepared
from bench_core.prepare.disk import readable

PIECE_BYTES = 16 << 20
_ON_THE_WAY = 2  # pieces in the object store at a time: what it must have room for, whatever a model's size


@dataclass(frozen=True)
class Parcel:
    """Files under one key.

    Attributes:
        key: digest of what it holds.
        files: name below its folder to where it lies here; in order.
    """

    key: str
    what: str
    files: Mapping[str, Path]

    @property
    def size_bytes(self) -> int:
        """Of all files."""
        return sum(path.stat().st_size for path in self.files.values())

    def pieces(self) -> Iterator[tuple[str, bytes]]:
        """(name, bytes), file after file; an empty file is one empty piece."""
        for name, path in self.files.items():
            with path.open("rb") as stream:
                piece = stream.read(PIECE_BYTES)
                yield name, piece
                while piece := stream.read(PIECE_BYTES):
                    yield name, piece


def model_parcel(prepared: Prepared, artifact: str) -> Parcel:
    """What a box reads of a model: one artifact, and the files beside the artifacts. The artifact counts by the digest
    that its record holds, so that no weight is read for it."""
    home = prepared.model_folder
    beside = [path for path in sorted(home.iterdir()) if path.is_file() and not path.name.startswith(".")]
    digests = [(path.name, file_sha256(path)) for path in beside]
    files = {f"{home.name}/{path.name}": path for path in beside}
    if artifact != layout.NO_ARTIFACT:
        files |= {f"{home.name}/{path.relative_to(home).as_posix()}": path for path in files_below(home / artifact)}
        digests.append((artifact, _digest_of(prepared, artifact)))
    return Parcel(entries_sha256(digests), f"{prepared.model.name} ({artifact})", files)


def _digest_of(prepared: Prepared, artifact: str) -> str:
    if artifact == layout.HF_ARTIFACT:
        return prepared.model.digest
    return ArtifactRecord.read(prepared.model_folder / artifact / layout.ARTIFACT_FILE).digest


def data_parcel(data: Path, names: Iterable[str]) -> Parcel:
    """A workload and the schedules of cells under load, by their content."""
    files = {name: data / name for name in sorted(set(names))}
    digest = entries_sha256((name, file_sha256(path)) for name, path in files.items())
    return Parcel(digest, "the workload", files)


def image_parcel(tag: str, saved: Path) -> Parcel:
    """An image that has been saved to a file."""
    return Parcel(file_sha256(saved), f"image {tag}", {"image.tar": saved})


class Carrier:
    """Sends parcels to nodes.

    Args:
        tell: takes one line for each parcel that is sent.
    """

    def __init__(self, link: Link, porters: Mapping[str, Any], tell: Callable[[str], None]) -> None:
        self._link = link
        self._porters = porters
        self._tell = tell

    def carry(self, parcel: Parcel, nodes: Sequence[str]) -> dict[str, str]:
        """Sends it to those of these nodes that lack it; node to why that failed."""
        failed: dict[str, str] = {}
        calls = {node: self._porters[node].lacks.remote([parcel.key]) for node in nodes}
        missing = [node for node, lacking in self._each(calls, failed).items() if lacking]
        if not missing:
            return failed
        self._tell(f"sending {parcel.what}, {readable(parcel.size_bytes)}, to {', '.join(missing)}")
        self._all({node: self._porters[node].begin.remote(parcel.key) for node in missing}, failed)
        digests: dict[str, Any] = {name: hashlib.sha256() for name in parcel.files}
        waiting: list[tuple[Any, dict[str, Any]]] = []
        for name, piece in parcel.pieces():
            digests[name].update(piece)
            content = self._link.put(piece)
            here = [node for node in missing if node not in failed]
            if not here:
                return failed
            sent = {node: self._porters[node].piece.remote(parcel.key, name, content) for node in here}
            waiting.append((content, sent))
            if len(waiting) >= _ON_THE_WAY:
                self._all(waiting.pop(0)[1], failed)
        for _, calls in waiting:
            self._all(calls, failed)
        whole = {name: digest.hexdigest() for name, digest in digests.items()}
        here = [node for node in missing if node not in failed]
        self._all({node: self._porters[node].end.remote(parcel.key, whole) for node in here}, failed)
        return failed

    def ask(self, nodes: Iterable[str], call: Callable[[Any], Any], failed: dict[str, str]) -> dict[str, Any]:
        """The same call of every porter at once; node to its answer, ``failed`` gets the others."""
        return self._each({node: call(self._porters[node]) for node in nodes}, failed)

    def _all(self, calls: Mapping[str, Any], failed: dict[str, str]) -> None:
        self._each(calls, failed)

    def _each(self, calls: Mapping[str, Any], failed: dict[str, str]) -> dict[str, Any]:
        found = {}
        for node, call in calls.items():
            try:
                found[node] = self._link.get(call)
            except MachineFailure as error:
                failed.setdefault(node, error.cause)
        return found
