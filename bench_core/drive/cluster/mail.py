"""On a node: what a launch says and writes, on its way to the driver."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from bench_core.contract.records import layout
from bench_core.drive.cluster.post import Item

_BEAT_S = 2.0  # how long a stop waits at most until a launch hears of it
PIECE_BYTES = 1 << 20
_MOST_BYTES = 4 << 20  # of one message


class Grown:
    """Files below a folder, and how much of each has been sent. What is replaced is sent anew."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sent: dict[str, tuple[int, int]] = {}

    def pieces(self) -> Iterator[tuple[str, int, bytes]]:
        """(name below the folder, offset, bytes) of what has come since; of an empty file too."""
        for path in self.files():
            name = path.relative_to(self._folder).as_posix()
            try:
                with path.open("rb") as stream:
                    number = os.fstat(stream.fileno()).st_ino
                    known, offset = self._sent.get(name, (-1, 0))
                    offset = offset if known == number else 0
                    stream.seek(offset)
                    piece = stream.read(PIECE_BYTES)
                    while piece or known != number:
                        yield name, offset, piece
                        offset, known = offset + len(piece), number
                        self._sent[name] = (number, offset)
                        piece = stream.read(PIECE_BYTES)
            except OSError:  # renamed or removed meanwhile: the next look sees what there is
                continue

    def files(self) -> list[Path]:
        """Plain files, verdicts last; what is being written has a dot in front of its name, and is not among them."""
        found = []
        for home, folders, names in os.walk(self._folder):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            paths = [Path(home, name) for name in sorted(names) if not name.startswith(".")]
            found += [path for path in paths if path.is_file() and not path.is_symlink()]
        return sorted(found, key=lambda path: path.name == layout.OUTCOME_FILE)


class Mail:
    """Sends in one thread. Files go ahead of the words that were said after they had been written.

    Args:
        put: a call of the mailbox that waits for its answer.
        on_stop: called once for each stop that was asked for; twice where nobody takes the mail any more.
    """

    def __init__(
        self, number: int, put: Callable[[list[Item]], int], folder: Path | None, on_stop: Callable[[], None]
    ) -> None:
        self._number = number
        self._put = put
        self._grown = Grown(folder) if folder is not None else None
        self._on_stop = on_stop
        self._queue: SimpleQueue[Item | None] = SimpleQueue()
        self._stops = 0
        self._thread = threading.Thread(target=self._run, name="mail", daemon=True)
        self.broken: Exception | None = None
        self._thread.start()

    def send(self, kind: str, what: Any = None) -> None:
        """Returns at once."""
        self._queue.put((self._number, kind, what))

    def close(self) -> None:
        """When all is sent.

        Raises:
            Exception: it could not be.
        """
        self._queue.put(None)
        self._thread.join()
        if self.broken is not None:
            raise self.broken

    def _run(self) -> None:
        try:
            while self._pass_on():
                pass
        except Exception as error:  # noqa: BLE001  # the driver or the head has gone: nobody waits for this launch
            self.broken = error
            self._on_stop()
            self._on_stop()

    def _pass_on(self) -> bool:
        """What there is now, or a beat; ``False`` after the last."""
        items: list[Item] = []
        ended = False
        try:
            item = self._queue.get(timeout=_BEAT_S)
            while True:
                ended = item is None
                if item is None:
                    break
                items.append(item)
                item = self._queue.get_nowait()
        except Empty:
            pass
        self._send_files()
        self._answered(self._put(items))
        return not ended

    def _send_files(self) -> None:
        batch: list[Item] = []
        size = 0
        for name, offset, piece in self._grown.pieces() if self._grown is not None else ():
            batch.append((self._number, "file", (name, offset, piece)))
            size += len(piece)
            if size >= _MOST_BYTES:
                self._answered(self._put(batch))
                batch, size = [], 0
        if batch:
            self._answered(self._put(batch))

    def _answered(self, stops: int) -> None:
        while self._stops < stops:
            self._stops += 1
            self._on_stop()
