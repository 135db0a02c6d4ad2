"""Conversations as datasets hold them, and the one prompt that each of them gives: the user's first turn.

Known forms: a list of messages with ``role`` and ``content`` (as chat APIs have it) or ``from`` and ``value`` (as
ShareGPT has it); the same as an object of two lists, which is how the library ``datasets`` may give it; and the list as
JSON inside of a text, which is how a CSV file holds it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench_core.contract.errors import BadInput

ROLE_KEYS = ("role", "from")
CONTENT_KEYS = ("content", "value", "text")
USER_ROLES = ("user", "human", "prompter")
SYSTEM_ROLES = ("system", "developer")
_TEXT_PARTS = (None, "text", "input_text")


@dataclass(frozen=True)
class Turn:
    """One message: who speaks, and the content as the dataset has it."""

    role: str
    content: Any


@dataclass(frozen=True)
class FirstTurn:
    """The user's first turn that has text; ``text`` is empty if there is none.

    Attributes:
        after_system: a system prompt comes before it.
        after_others: somebody else (the assistant, a tool) has spoken before it.
    """

    text: str
    after_system: bool
    after_others: bool


def turns(value: object) -> tuple[Turn, ...] | None:
    """The messages of a conversation; ``None`` for what is none."""
    if isinstance(value, str):
        value = _from_text(value)
    elif isinstance(value, Mapping):
        value = _from_two_lists(value)
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)) or not value:
        return None
    found = [_turn(message) for message in value]
    return None if any(turn is None for turn in found) else tuple(turn for turn in found if turn is not None)


def first_user_turn(conversation: Sequence[Turn], where: str) -> FirstTurn:
    """The prompt of a conversation. Turns without text count as absent.

    Raises:
        BadInput: the user's turn holds something that is not text.
    """
    system = others = False
    for turn in conversation:
        role = turn.role.strip().lower()
        if role in USER_ROLES:
            text = content_text(turn.content, where)
            if text.strip():
                return FirstTurn(text, system, others)
        elif turn.content:
            system |= role in SYSTEM_ROLES
            others |= role not in SYSTEM_ROLES
    return FirstTurn("", system, others)


def content_text(content: object, where: str) -> str:
    """The text of a message: a string, or a list of parts, whose texts are joined by line breaks.

    Raises:
        BadInput: a part is no text (an image), or the content is something else.
    """
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence) or isinstance(content, bytes):
        raise BadInput(f"{where}: the user's turn is not text but {type(content).__name__}", "prompts are text")
    texts = []
    for part in content:
        if isinstance(part, str):
            texts.append(part)
            continue
        kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
        text = part.get("text") if isinstance(part, Mapping) else None
        if kind not in _TEXT_PARTS or not isinstance(text, str):
            raise BadInput(
                f"{where}: the user's turn has a part that is no text: {kind!r}", "leave such conversations out"
            )
        texts.append(text)
    return "\n".join(texts)


def _turn(message: object) -> Turn | None:
    if not isinstance(message, Mapping):
        return None
    role = next((message[key] for key in ROLE_KEYS if isinstance(message.get(key), str)), None)
    key = next((key for key in CONTENT_KEYS if key in message), None)
    return None if role is None or key is None else Turn(role, message[key])


def _from_text(text: str) -> object:
    if not text.lstrip().startswith("["):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _from_two_lists(value: Mapping[Any, Any]) -> list[dict[str, Any]] | None:
    role = next((key for key in ROLE_KEYS if isinstance(value.get(key), list)), None)
    content = next((key for key in CONTENT_KEYS if isinstance(value.get(key), list)), None)
    if role is None or content is None or len(value[role]) != len(value[content]):
        return None
    return [{role: who, content: said} for who, said in zip(value[role], value[content], strict=True)]
