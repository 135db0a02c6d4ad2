"""The rule by which rows of a dataset become prompts: which column, and what of it.

A column that was asked for is taken. Else one with a known name (:data:`KNOWN_NAMES`, the first that is there and can
be a prompt). Else the only column that holds text or conversations. Else the dataset is refused, with all columns and
what they hold: a wrong guess would look like a right number.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, Protocol

from bench_core.contract.errors import BadInput
from bench_core.contract.records.prompt_source import Chosen, PromptSource, Taken
from bench_core.prepare.prompts.conversation import first_user_turn, turns

# In this order. A dotted name is a path into objects, as in a line of an OpenAI batch file.
KNOWN_NAMES = (
    "text", "prompt", "messages", "conversations", "conversation", "turns", "body.messages", "body.prompt",
    "question", "instruction", "input", "inputs", "query", "story", "content",
)  # fmt: skip
# Lists of texts are a prompt under this name alone (MT-Bench): elsewhere they are tags, answers, choices.
LIST_NAMES = ("turns",)
# Last words of names whose columns are no prompts, whatever they hold.
NO_PROMPT_NAMES = (
    "id", "ids", "uuid", "guid", "url", "uri", "href", "date", "time", "timestamp", "datetime", "label", "hash", "sha",
    "sha1", "sha256", "md5", "digest", "checksum", "lang", "language", "path", "filename",
)  # fmt: skip
HINT = (
    "name one with --text-column (in a suite file: text_column, for compose: BENCH_TEXT_COLUMN); "
    "a.b is the column b inside a"
)
LOOKED_AT = 100
_DEPTH = 3

TEXT, CONVERSATION, TEXTS, EMPTY = "text", "conversation", "list of texts", "empty"
_TAKEN: dict[str, Taken] = {
    TEXT: "whole_text",
    CONVERSATION: "first_user_turn",
    TEXTS: "first_text",
    EMPTY: "whole_text",
}
_ABSENT = object()

Row = tuple[str, Mapping[str, Any]]
"""Where a row stands, for errors, and its columns."""


class Texts(Protocol):
    """Texts of a dataset in its order, and what they are of its rows, as far as these have been read."""

    def __iter__(self) -> Iterator[str]: ...

    @property
    def source(self) -> PromptSource: ...


@dataclass(frozen=True)
class Column:
    """One column of the rows looked at.

    Attributes:
        kind: what its first value that is not null holds.
        no_prompt: why a guess must not take it, such as ``one word each``; ``None`` if it may.
        in_first: the first row has it.
    """

    name: str
    kind: str
    no_prompt: str | None
    in_first: bool

    @property
    def words(self) -> str:
        """Name and what it holds."""
        return f"{self.name} ({self.kind}{f', {self.no_prompt}' if self.no_prompt else ''})"

    @property
    def can_be_prompt(self) -> bool:
        """Whether it holds what a prompt can be taken from under any name."""
        return self.kind in (TEXT, CONVERSATION) and self.in_first

    @property
    def can_be_known(self) -> bool:
        """Whether a known name makes it the prompts."""
        return self.can_be_prompt or (self.kind == TEXTS and self.name in LIST_NAMES and self.in_first)


class Prompts:
    """The prompts of rows. The column is chosen from the first rows, before anything is given out."""

    def __init__(self, rows: Iterator[Row], wanted: str | None, origin: str) -> None:
        """Looks at the first rows.

        Args:
            rows: the dataset's; they may raise :class:`BadInput` while read.
            wanted: the column that the user named, if any.
            origin: names the dataset in errors.

        Raises:
            BadInput: no such column, not text, or not plain which one; or the first row cannot be read.
        """
        first, self._rows = _look_ahead(rows)
        self._name, self._chosen, self._taken = "", None, _TAKEN[EMPTY]
        self._system = self._others = 0
        if first:
            self._name, self._chosen, kind = pick_column(first, wanted, origin)
            self._taken = _TAKEN[kind]

    @property
    def source(self) -> PromptSource:
        """The column, with what has been left out so far."""
        return PromptSource(
            column=self._name,
            chosen=self._chosen,
            taken=self._taken,
            system_left_out=self._system,
            begun_by_others=self._others,
        )

    def __iter__(self) -> Iterator[str]:
        for where, row in self._rows:
            value = look_up(row, self._name)
            if value is _ABSENT:
                names = ", ".join(map(str, row)) or "none"
                raise BadInput(f"{where}: no column {self._name!r}", f"columns of this row: {names}")
            yield self._text(value, where)

    def _text(self, value: Any, where: str) -> str:
        if value is None or value == []:
            return ""
        if isinstance(value, str) and self._taken == "whole_text":
            return _whole(value, where)
        kind = kind_of(value)
        if _TAKEN.get(kind) != self._taken:
            what = kind if isinstance(value, (list, Mapping)) else type(value).__name__
            wanted = {"whole_text": "text", "first_text": "a list of texts"}.get(self._taken, "a conversation")
            raise BadInput(f"{where}: the column {self._name!r} is not {wanted} but {what}", "prompts are text")
        if self._taken == "first_text":
            return _whole(next((text for text in value if text.strip()), ""), where)
        turn = first_user_turn(turns(value) or (), where)
        if turn.text:
            self._system += turn.after_system
            self._others += turn.after_others
        return _whole(turn.text, where)


def pick_column(first: Sequence[Row], wanted: str | None, origin: str) -> tuple[str, Chosen, str]:
    """The column of the prompts, how it was chosen and what it holds; see the module.

    Raises:
        BadInput: no such column, no text in it, or not plain which one.
    """
    columns = look_at(first)
    listed = ", ".join(column.words for column in columns.values()) or "none"
    if wanted is not None:
        value = look_up(first[0][1], wanted)
        if value is _ABSENT:
            raise BadInput(f"{origin}: no column {wanted!r}", f"columns: {listed}")
        kind = columns[wanted].kind if wanted in columns else kind_of(value)
        if kind not in _TAKEN:
            raise BadInput(f"{origin}: the column {wanted!r} is not text but {kind}", f"columns: {listed}")
        return wanted, "given", kind
    chosen: tuple[Column, Chosen] | None = None
    known = [columns[name] for name in KNOWN_NAMES if name in columns and columns[name].can_be_known]
    others = [column for column in columns.values() if column.can_be_prompt and column.no_prompt is None]
    if known:
        chosen = known[0], "known_name"
    elif len(others) == 1:
        chosen = others[0], "only_text"
    if chosen is None:
        raise BadInput(f"{origin}: which column holds the prompts? Columns: {listed}", HINT)
    column, how = chosen
    _require_user(first, column, origin)
    return column.name, how, column.kind


def look_at(rows: Sequence[Row]) -> dict[str, Column]:
    """The columns of some rows, with those inside of objects by their dotted path."""
    values: dict[str, list[Any]] = {}
    for _where, row in rows:
        for name, value in _flat(row, "", _DEPTH):
            values.setdefault(name, []).append(value)
    first = {name for name, _value in _flat(rows[0][1], "", _DEPTH)}
    return {name: _column(name, found, name in first) for name, found in values.items()}


def look_up(row: Mapping[str, Any], name: str) -> Any:
    """The value of a column, which may be a dotted path; null inside of null; a mark of its own if absent."""
    if name in row:
        return row[name]
    value: Any = row
    for part in name.split("."):
        if value is None:
            return None
        if not isinstance(value, Mapping) or part not in value:
            return _ABSENT
        value = value[part]
    return value


def kind_of(value: object) -> str:
    """What a value is, in words."""
    if value is None or value == []:
        return EMPTY
    if isinstance(value, (bool, int, float)):
        return "true or false" if isinstance(value, bool) else "number"
    if turns(value) is not None:
        return CONVERSATION
    if isinstance(value, str):
        return TEXT
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return TEXTS if all(isinstance(part, str) for part in value) else "list"
    return "object" if isinstance(value, Mapping) else type(value).__name__


def _flat(row: Mapping[str, Any], path: str, depth: int) -> Iterator[tuple[str, Any]]:
    for key, value in row.items():
        name = f"{path}{key}"
        if isinstance(value, Mapping) and value and depth > 1 and turns(value) is None:
            yield from _flat(value, f"{name}.", depth - 1)
        else:
            yield name, value


def _column(name: str, values: Sequence[Any], in_first: bool) -> Column:
    kind = next((kind_of(value) for value in values if kind_of(value) != EMPTY), EMPTY)
    texts = [value for value in values if isinstance(value, str) and value.strip()] if kind == TEXT else []
    return Column(name, kind, _why_no_prompt(name, texts) if kind == TEXT else None, in_first)


def _why_no_prompt(name: str, texts: Sequence[str]) -> str | None:
    """Ids, addresses, dates, labels and hashes are seen by their name, or because no value has a second word."""
    words = re.findall(r"[a-z]+\d*|[A-Z]+(?![a-z])\d*|[A-Z][a-z]+\d*", name)
    if words and words[-1].lower() in NO_PROMPT_NAMES:
        return "by its name no prompt"
    return "one word each" if texts and all(_is_one_word(text) for text in texts) else None


def _is_one_word(text: str) -> bool:
    """One word of a script that has spaces (those without begin with Thai, at U+0E00), a number or a date."""
    stripped = text.strip()
    if re.match(r"\d{4}-\d\d-\d\d\b", stripped) or not any(character.isalpha() for character in stripped):
        return True
    return not re.search(r"\s", stripped) and all(ord(character) < 0x0E00 for character in stripped)


def _require_user(first: Sequence[Row], column: Column, origin: str) -> None:
    if column.kind != CONVERSATION:
        return
    roles: dict[str, None] = {}
    for where, row in first:
        conversation = turns(look_up(row, column.name)) or ()
        roles |= dict.fromkeys(turn.role for turn in conversation)
        try:
            if first_user_turn(conversation, where).text:
                return
        except BadInput:
            return  # told when that row is read
    raise BadInput(
        f"{origin}: no turn of a user in the column {column.name!r}: its roles are {', '.join(roles)}",
        "the one who asks is called user or human",
    )


def _look_ahead(rows: Iterator[Row]) -> tuple[list[Row], Iterator[Row]]:
    """The first rows, and all of them. What is wrong with a later row is raised where that row is reached."""
    seen: list[Row] = []
    late: list[BadInput | OSError] = []
    try:
        for row in islice(rows, LOOKED_AT):
            seen.append(row)
    except (BadInput, OSError) as error:
        if not seen:
            raise
        late.append(error)
    return seen, chain(seen, _raised(late), rows)


def _raised(errors: Sequence[Exception]) -> Iterator[Row]:
    for error in errors:
        raise error
    yield from ()


def _whole(value: Any, where: str) -> str:
    text = str(value)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadInput(f"{where}: the text holds half a surrogate pair", "it is not valid Unicode") from error
    return text
