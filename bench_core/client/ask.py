"""What is sent: ready HTTP requests, made before the clock runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench_core.contract.asked.server import ServerEntry
from bench_core.contract.errors import BadInput
from bench_core.contract.records.digest import ids_digest


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens."""

    host: str
    port: int

    @property
    def header(self) -> str:
        """As the ``Host`` header has it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Ask:
    """One request, ready to be sent, and what its record says of it.

    Attributes:
        prompt: index into the workload.
        prompt_digest: of the ids (``digest.prompts_sha256`` of this one prompt, its first 16 digits).
        prompt_tokens: how many ids.
        asked_tokens: output tokens that it is to write.
        forced: whether it has to write exactly so many.
        data: head and body of the HTTP request.
    """

    prompt: int
    prompt_digest: str
    prompt_tokens: int
    asked_tokens: int
    forced: bool
    data: bytes

    @property
    def fewest_tokens(self) -> int:
        """Of a good answer; ``asked_tokens`` is the most."""
        return self.asked_tokens if self.forced else 1


class Asker:
    """Makes requests to one server.

    Args:
        entry: how the server is asked.
        address: where it listens.
        forced: whether it has to write exactly as many tokens as are asked for.
        extra: of each request's body, beside what the entry says: that of the prefix cache, chosen by the caller.
    """

    def __init__(self, entry: ServerEntry, address: Address, *, forced: bool, extra: Mapping[str, Any] | None = None):
        self._entry = entry
        self._forced = forced
        self._fixed = {**entry.body, **(entry.forced if forced else {}), **(extra or {})}
        self._head = (
            f"POST {entry.path} HTTP/1.1\r\nHost: {address.header}\r\nUser-Agent: llm-bench\r\n"
            "Accept: text/event-stream, application/json\r\nContent-Type: application/json\r\n"
            "Connection: keep-alive\r\nContent-Length: "
        ).encode()

    def ask(self, prompt: int, ids: Sequence[int], output_tokens: int, text: str | None = None) -> Ask:
        """One request.

        Args:
            prompt: index into the workload.
            ids: the prompt's token ids.
            output_tokens: to be written.
            text: that encodes to these ids; for servers that take no ids.

        Raises:
            BadInput: the server takes text and none is given, or a field of the entry cannot be set.
        """
        body = json.loads(json.dumps(self._fixed))  # nested fields are set below, in a copy of its own
        put_at(body, self._entry.prompt_field, self._prompt(ids, text))
        for field in self._entry.length_fields:
            put_at(body, field, output_tokens)
        content = json.dumps(body, separators=(",", ":")).encode("ascii")
        data = self._head + f"{len(content)}\r\n\r\n".encode() + content
        return Ask(prompt, ids_digest(ids), len(ids), output_tokens, self._forced, data)

    def _prompt(self, ids: Sequence[int], text: str | None) -> Any:
        if self._entry.prompt == "ids":
            return list(ids)
        if text is None:
            raise BadInput("this server takes text, and the prompt is given as token ids alone")
        return text if self._entry.prompt == "text" else [{"role": "user", "content": text}]


def put_at(body: dict[str, Any], path: str, value: Any) -> None:
    """Sets a field by its dotted path; objects on the way are made, places in a list have to be there.

    Raises:
        BadInput: the path leads through something else than an object or a list, or beyond a list's end.
    """
    names = path.split(".")
    place: Any = body
    for name, after in zip(names, [*names[1:], None], strict=True):
        if isinstance(place, list) and name.isdigit() and int(name) < len(place):
            key: Any = int(name)
        elif isinstance(place, dict):
            key = name
            if after is not None:
                place.setdefault(name, {})
        else:
            raise BadInput(f"field {path} of a request's body: there is no {name} to set")
        if after is None:
            place[key] = value
        else:
            place = place[key]
