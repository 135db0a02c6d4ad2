"""YAML as data: safe loading with limits on size, depth and numbers, no duplicate keys, and the line of every key."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from bench_core.contract.errors import BadInput, shortened
from bench_core.contract.records.record import LARGEST_FLOAT, LARGEST_INT, SMALLEST_INT, Record, describe, place_of

MAX_BYTES = 256 * 1024
MAX_DEPTH = 20
_LONGEST_NUMBER = 100  # characters: 63 bits in base 2, with a sign and separators
_TAG = "tag:yaml.org,2002:"

R = TypeVar("R", bound=Record)

# The same in C, where PyYAML was built with it: an image.yaml is read at each start of a worker.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Document:
    """A parsed YAML mapping and the 1-based line on which each key path stands."""

    content: dict[str, Any]
    lines: dict[tuple[str | int, ...], int]

    def line_of(self, path: tuple[str | int, ...]) -> int:
        """The line of a key path, or of its nearest ancestor that has one (1 for the document itself)."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.lines:
                return self.lines[path[:end]]
        return 1


def parse(text: str, origin: str) -> Document:
    """Parses one YAML mapping with plain scalars, lists and mappings; aliases are refused.

    Raises:
        BadInput: not YAML, too large (256 KiB), nested deeper than 20, an alias, a duplicate key, a number beyond the
            bounds of every record, or not a mapping; the message names ``origin`` and the line.
    """
    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise BadInput(f"{origin}: larger than {MAX_BYTES // 1024} KiB", "a suite or image file is a short text")
    loader = None
    try:
        # The loader's own constructor already refuses characters that YAML forbids.
        loader = _Loader(text)
        _check_events(text, origin)
        node = loader.get_single_node()
        lines: dict[tuple[str | int, ...], int] = {}
        if node is not None:
            _walk(node, (), lines, origin)
        content = loader.construct_document(node) if node is not None else None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise BadInput(f"{origin}:{line}: {error.problem or error.context or 'not YAML'}") from error
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError, TypeError, LookupError, AttributeError) as error:
        # A scalar that is not what its tag says (`!!bool perhaps`) makes PyYAML's constructors fail in any of these.
        raise BadInput(f"{origin}: not readable as YAML: {' '.join(str(error).split())[:200]}") from error
    finally:
        if loader is not None:
            loader.dispose()
    if not isinstance(content, dict):
        raise BadInput(f"{origin}:1: expected a mapping of keys and values")
    if any(not isinstance(key, str) for key in content):
        raise BadInput(f"{origin}:1: every key must be text")
    return Document(content, lines)


def parse_as(model: type[R], text: str, origin: str) -> R:
    """Parses YAML into a record.

    Raises:
        BadInput: as :func:`parse`, or a wrong key or value; the message names the line and the key.
    """
    document = parse(text, origin)
    try:
        return model.model_validate(document.content)
    except ValidationError as error:
        line = document.line_of(place_of(error))
        raise BadInput(f"{origin}:{line}: {describe(error)}", _known_keys(model, error)) from error


def _known_keys(model: type[Record], error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    if first["type"] != "extra_forbidden" or len(first["loc"]) != 1:
        return "docs/schema says what each key takes"
    return "known keys: " + ", ".join(model.model_fields)


def _check_events(text: str, origin: str) -> None:
    """Refuses deep nesting and aliases before any node is built, so that neither can exhaust memory."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        line = event.start_mark.line + 1 if event.start_mark else 1
        if isinstance(event, yaml.AliasEvent):
            raise BadInput(f"{origin}:{line}: aliases (*name) are not allowed here")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise BadInput(f"{origin}:{line}: nested deeper than {MAX_DEPTH} levels")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _walk(node: yaml.Node, path: tuple[str | int, ...], lines: dict[tuple[str | int, ...], int], origin: str) -> None:
    if isinstance(node, yaml.MappingNode):
        seen: set[Hashable] = set()
        for key, value in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else str(key.tag)
            line = key.start_mark.line + 1
            if name in seen:
                raise BadInput(f"{origin}:{line}: the key {name!r} stands twice")
            seen.add(name)
            here = (*path, name)
            lines[here] = line
            if isinstance(key, yaml.ScalarNode):
                _check_number(key, here, origin)
            _walk(value, here, lines, origin)
    elif isinstance(node, yaml.ScalarNode):
        _check_number(node, path, origin)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            here = (*path, index)
            lines[here] = value.start_mark.line + 1
            _walk(value, here, lines, origin)


def _check_number(node: yaml.ScalarNode, path: tuple[str | int, ...], origin: str) -> None:
    """Refuses a number that no record could hold, also where a text of digits could be read as none at all."""
    kind = node.tag.removeprefix(_TAG)
    if kind not in ("int", "float"):
        return
    try:
        within = len(node.value) <= _LONGEST_NUMBER and _is_within(node, kind)
    except (ValueError, IndexError) as error:
        raise _bad_number(node, path, origin, f"is no {kind}") from error
    if not within:
        what = "more than 63 bits" if kind == "int" else f"no finite number, or beyond {LARGEST_FLOAT:g}"
        raise _bad_number(node, path, origin, what)


def _is_within(node: yaml.ScalarNode, kind: str) -> bool:
    constructor = yaml.constructor.SafeConstructor()
    if kind == "int":
        whole: int = constructor.construct_yaml_int(node)
        return SMALLEST_INT <= whole <= LARGEST_INT
    value: float = constructor.construct_yaml_float(node)
    return -LARGEST_FLOAT <= value <= LARGEST_FLOAT  # which no NaN is


def _bad_number(node: yaml.ScalarNode, path: tuple[str | int, ...], origin: str, what: str) -> BadInput:
    key = shortened(".".join(str(part) for part in path), 80)
    where = f"{origin}:{node.start_mark.line + 1}"
    cause = f"{where}: {key}: {shortened(node.value, 40)}: {what}"
    return BadInput(cause, "a text that looks like a number stands in quotes")
