"""The server's supervisor, as the client asks it."""

from __future__ import annotations

import http.client
import time
from typing import TypeVar

from pydantic import ValidationError

from bench_core.contract.errors import MachineFailure
from bench_core.contract.records.record import Record, describe
from bench_core.contract.serving.sidecar import Greeting, ServerState, Taken

R = TypeVar("R", bound=Record)

_APPEARS_WITHIN_S = 120.0  # a container that starts and imports, on a slow disk
_ANSWERS_WITHIN_S = 20.0
_PAUSE_S = 0.1


class SidecarClient:
    """One connection for each question: seldom asked, and nothing that a dead server could leave half open."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port

    def greeting(self) -> Greeting:
        """What it says first; waits until it is there.

        Raises:
            MachineFailure: it does not appear.
        """
        deadline = time.monotonic() + _APPEARS_WITHIN_S
        while True:
            try:
                return self._ask("GET", "/greeting", Greeting)
            except MachineFailure:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_PAUSE_S)

    def start(self) -> ServerState:
        """Has a server started where none lives."""
        return self._ask("POST", "/start", ServerState)

    def state(self) -> ServerState:
        """How the server is."""
        return self._ask("GET", "/state", ServerState)

    def begin(self) -> ServerState:
        """A cell begins."""
        return self._ask("POST", "/begin", ServerState)

    def take(self) -> Taken:
        """Samples since the last call."""
        return self._ask("GET", "/take", Taken)

    def log(self) -> str:
        """What the server has printed in this cell."""
        return self._text("GET", "/log").decode("utf-8", "replace")

    def _ask(self, method: str, path: str, kind: type[R]) -> R:
        try:
            return kind.model_validate_json(self._text(method, path))
        except ValidationError as error:
            raise MachineFailure(f"the server's supervisor answers {path} with {describe(error)}") from error

    def _text(self, method: str, path: str) -> bytes:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=_ANSWERS_WITHIN_S)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise MachineFailure(f"the server's supervisor does not answer: {error}") from error
        finally:
            connection.close()
        if answer.status != 200:
            raise MachineFailure(f"the server's supervisor answers {path} with status {answer.status}")
        return text
