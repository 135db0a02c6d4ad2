"""The server's supervisor, as the client asks it."""

from __future__ import annotations

import http.client
import time
from typing import TypeVar

from pydantic import ValidationError

from bench_core.contract.errors import BadInput, MachineFailure
from bench_core.contract.records.record import Record, describe
from bench_core.contract.serving.sidecar import Greeting, Planned, Refusal, ServeAsk, ServerState, Taken

R = TypeVar("R", bound=Record)

_APPEARS_WITHIN_S = 120.0  # a container that starts and imports, on a slow disk
_ANSWERS_WITHIN_S = 20.0
_ENDS_WITHIN_S = 60.0  # a server that is asked to end, and then killed
_PLANS_WITHIN_S = 1800.0  # it takes the digest of what the engine reads: hundreds of gigabytes, on a slow disk
_PAUSE_S = 0.1
_REFUSED: dict[int, type[BadInput]] = {400: BadInput, 503: MachineFailure}


class SidecarClient:
    """One connection for each question: seldom asked, and nothing that a dead server could leave half open."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._heard_s = time.monotonic()

    @property
    def silent_s(self) -> float:
        """Since it answered last, seconds."""
        return time.monotonic() - self._heard_s

    def greeting(self) -> Greeting:
        """What it says first; waits until it is there.

        Raises:
            MachineFailure: it does not appear.
        """
        self._await()
        return self._ask("GET", "/greeting", Greeting)

    def plan(self, ask: ServeAsk) -> Planned:
        """Has it plan what a person asks for; waits until it is there.

        Raises:
            BadInput: that cannot be.
            MachineFailure: it does not appear, or its machine lacks something.
        """
        self._await()
        return self._ask("POST", "/plan", Planned, ask.model_dump_json().encode(), _PLANS_WITHIN_S)

    def end(self) -> None:
        """Ends server and supervisor."""
        self._text("POST", "/end")

    def _await(self) -> None:
        deadline = time.monotonic() + _APPEARS_WITHIN_S
        while True:
            try:
                self.state()
            except MachineFailure:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_PAUSE_S)
            else:
                return

    def start(self) -> ServerState:
        """Has a server started where none lives."""
        return self._ask("POST", "/start", ServerState)

    def renew(self) -> ServerState:
        """Has the server ended, so that the next one to start is new."""
        return self._ask("POST", "/renew", ServerState, within_s=_ENDS_WITHIN_S)

    def state(self) -> ServerState:
        """How the server is."""
        return self._ask("GET", "/state", ServerState)

    def begin(self) -> ServerState:
        """A cell begins."""
        return self._ask("POST", "/begin", ServerState)

    def take(self) -> Taken:
        """Samples since the last call, and how the server is."""
        return self._ask("GET", "/take", Taken)

    def log(self) -> str:
        """What the server has printed in this cell."""
        return self._text("GET", "/log").decode("utf-8", "replace")

    def _ask(self, method: str, path: str, kind: type[R], body: bytes = b"", within_s: float = _ANSWERS_WITHIN_S) -> R:
        try:
            return kind.model_validate_json(self._text(method, path, body, within_s))
        except ValidationError as error:
            raise MachineFailure(f"the server's supervisor answers {path} with {describe(error)}") from error

    def _text(self, method: str, path: str, body: bytes = b"", within_s: float = _ANSWERS_WITHIN_S) -> bytes:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=within_s)
        try:
            connection.request(method, path, body or None)
            answer = connection.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise MachineFailure(f"the server's supervisor does not answer: {error}") from error
        finally:
            connection.close()
        self._heard_s = time.monotonic()
        if answer.status in _REFUSED:
            refusal = Refusal.parse(text, "the server's supervisor")
            raise _REFUSED[answer.status](refusal.cause, refusal.hint)
        if answer.status != 200:
            raise MachineFailure(f"the server's supervisor answers {path} with status {answer.status}")
        return text
