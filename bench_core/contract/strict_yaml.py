"""YAML as data: safe loading with limits on size and depth, no duplicate keys, and the line of every key."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from bench_core.contract.errors import BadInput
from bench_core.contract.record import Record, describe

MAX_BYTES = 256 * 1024
MAX_DEPTH = 20

R = TypeVar("R", bound=Record)


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
        BadInput: not YAML, too large (256 KiB), nested deeper than 20, an alias, a duplicate key, or not a mapping;
            the message names ``origin`` and the line.
    """
    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise BadInput(f"{origin}: larger than {MAX_BYTES // 1024} KiB", "a suite or image file is a short text")
    loader = None
    try:
        # The loader's own constructor already refuses characters that YAML forbids.
        loader = yaml.SafeLoader(text)
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
        where = tuple(error.errors(include_url=False)[0]["loc"])
        raise BadInput(f"{origin}:{document.line_of(where)}: {describe(error)}", _known_keys(model, error)) from error


def _known_keys(model: type[Record], error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    if first["type"] != "extra_forbidden" or len(first["loc"]) != 1:
        return "docs/schema says what each key takes"
    return "known keys: " + ", ".join(model.model_fields)


def _check_events(text: str, origin: str) -> None:
    """Refuses deep nesting and aliases before any node is built, so that neither can exhaust memory."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
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
            _walk(value, here, lines, origin)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            here = (*path, index)
            lines[here] = value.start_mark.line + 1
            _walk(value, here, lines, origin)
