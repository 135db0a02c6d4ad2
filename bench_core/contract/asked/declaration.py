"""Options of a command line as the fields of a record declare them.

A field has its name, type, limits, default and description once; the record reads them from a file, and whoever has a
command line (the driver with click, the worker, which must stay small, with argparse) makes its options of the same
declaration. What a field cannot say by itself stands beside its type: ``Annotated[int | None, Said(default="all")]``.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from bench_core.contract.records.record import Record

Kind = Literal["int", "float", "str", "bool", "path", "choice"]
_KINDS: dict[object, Kind] = {int: "int", float: "float", str: "str", bool: "bool", Path: "path"}
_METAVARS: dict[Kind, str] = {"int": "N", "float": "X", "str": "TEXT", "bool": "", "path": "PATH", "choice": ""}


@dataclass(frozen=True)
class Said:
    """What a command line says of a field beside its name, type, limits and description.

    Attributes:
        default: the default in words, where the value does not tell ("all", "no limit").
        flag: the option's name, where it is not the field's: of one entry, for a field that is given entry by entry.
        also: further names.
        variable: of the environment, for the driver's command line.
        metavar: what stands for the value.
        hidden: on no command line.
    """

    default: str = ""
    flag: str = ""
    also: tuple[str, ...] = ()
    variable: str = ""
    metavar: str = ""
    hidden: bool = False


@dataclass(frozen=True)
class Before:
    """What a record means that was written before it had this field, where that is not the default."""

    value: object


@dataclass(frozen=True)
class MayDiffer:
    """A field in which cells of one run may differ: no number that is compared depends on it."""


@dataclass(frozen=True)
class Declared:
    """One option.

    Attributes:
        name: the field's.
        origin: the record that declares it; its docstring is the heading of its options.
        kind: of the value, or of each of several.
        several: how more than one value is given: ``list``, comma-separated; ``entries``, by giving the option again.
        choices: of a ``choice``.
        at_least, at_most, above, below: limits of a number.
        default: the field's.
        words: what it does, and what its default is.
    """

    name: str
    origin: type[Record]
    kind: Kind
    several: Literal["", "list", "entries"]
    choices: tuple[str, ...]
    at_least: float | None
    at_most: float | None
    above: float | None
    below: float | None
    default: object
    description: str
    said: Said

    @property
    def flag(self) -> str:
        """``--name``."""
        return "--" + (self.said.flag or self.name).replace("_", "-")

    @property
    def flags(self) -> tuple[str, ...]:
        """All its names."""
        return (self.flag, *("--" + name for name in self.said.also))

    @property
    def words(self) -> str:
        """For a help text: the description and the default."""
        default = self.said.default or _told(self.default)
        return f"{self.description}  [default: {default}]" if default else self.description

    @property
    def metavar(self) -> str:
        """What stands for the value in a help text."""
        seconds = self.kind == "float" and self.name.endswith(("_s", "_seconds"))
        one = self.said.metavar or ("SECONDS" if seconds else _METAVARS[self.kind])
        return f"{one}[,{one}...]" if self.several == "list" else one


def declared(record: type[Record]) -> tuple[Declared, ...]:
    """The options of a record, in the order of its fields."""
    found = ((name, info, marked(info, Said) or Said()) for name, info in record.model_fields.items())
    return tuple(_declared(record, name, info, said) for name, info, said in found if not said.hidden)


def flag_of(record: type[Record], field: str) -> str:
    """The option of a field, with its dashes."""
    return next(option.flag for option in declared(record) if option.name == field)


def marked(info: FieldInfo, mark: type[Any]) -> Any:
    """A field's mark of this kind; ``None`` where it has none."""
    return next((part for part in info.metadata if isinstance(part, mark)), None)


def fields_that_may_differ(record: type[Record]) -> frozenset[str]:
    """Fields in which cells of one run may differ."""
    return frozenset(name for name, info in record.model_fields.items() if marked(info, MayDiffer) is not None)


def meant_before(record: type[Record]) -> dict[str, object]:
    """What the fields mean that a record written before they were there does not have."""
    marks = {name: marked(info, Before) for name, info in record.model_fields.items()}
    return {name: mark.value for name, mark in marks.items() if mark is not None}


def as_arguments(values: Mapping[str, object]) -> tuple[str, ...]:
    """Fields and values as a command line; what is ``None`` is left out."""
    given = {name: value for name, value in values.items() if value is not None}
    return tuple(word for name, value in given.items() for word in ("--" + name.replace("_", "-"), str(value)))


def _declared(record: type[Record], name: str, info: FieldInfo, said: Said) -> Declared:
    annotation = _without_none(info.annotation)
    several: Literal["", "list", "entries"] = ""
    limits = list(info.metadata)
    if get_origin(annotation) is tuple:
        annotation, several = get_args(annotation)[0], "list"
    elif get_origin(annotation) is dict:
        annotation, several = str, "entries"
    if get_origin(annotation) is Annotated:
        annotation, *more = get_args(annotation)
        limits += [limit for part in more if isinstance(part, FieldInfo) for limit in part.metadata]
    choices = get_args(annotation) if get_origin(annotation) is Literal else ()
    found = {key: _limit(limits, key) for key in ("ge", "le", "gt", "lt")}
    return Declared(
        name=name,
        origin=next(base for base in reversed(record.__mro__) if name in inspect.get_annotations(base)),
        kind="choice" if choices else _KINDS[annotation],
        several=several,
        choices=choices,
        at_least=found["ge"],
        at_most=found["le"],
        above=found["gt"],
        below=found["lt"],
        default=info.get_default(call_default_factory=True, validated_data={}),
        description=info.description or "",
        said=said,
    )


def _without_none(annotation: Any) -> Any:
    if get_origin(annotation) in (Union, types.UnionType):
        (annotation,) = (part for part in get_args(annotation) if part is not type(None))
    return annotation


def _limit(parts: list[Any], key: str) -> float | None:
    return next((value for part in parts if (value := getattr(part, key, None)) is not None), None)


def _told(value: object) -> str:
    """A default, for a help text; nothing where the description must say it."""
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    if isinstance(value, float):
        return f"{value:g}"
    return str(value) if isinstance(value, int | str | Path) else ""
