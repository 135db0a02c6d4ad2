"""Options for ``argparse`` of the fields that a record declares; the driver makes its own of the same with click."""

from __future__ import annotations

import argparse
import math
import operator
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

from bench_core.contract.asked.declaration import Declared
from bench_core.contract.errors import BadInput
from bench_core.contract.records import layout


class Parser(argparse.ArgumentParser):
    """A parser whose refusals are a cause and a hint."""

    def error(self, message: str) -> NoReturn:
        """Refuses.

        Raises:
            BadInput: always.
        """
        raise BadInput(message, "see --help")


def add_options(parser: argparse.ArgumentParser, options: Iterable[Declared]) -> None:
    """One group for each record that declares some of the options. What is not given is not in the result."""
    groups: dict[str, Any] = {}
    for option in options:
        title = (option.origin.__doc__ or "").split("\n")[0].rstrip(".")
        group = groups.setdefault(title, None) or parser.add_argument_group(title)
        groups[title] = group
        common: dict[str, Any] = {
            "dest": option.name,
            "default": argparse.SUPPRESS,
            "help": option.words.replace("%", "%%"),
        }
        if option.kind == "bool":
            group.add_argument(*option.flags, action=argparse.BooleanOptionalAction, **common)
            continue
        if option.kind == "choice":
            common["choices"] = option.choices
        else:
            common["metavar"] = option.metavar
        if option.several == "list":
            common |= {"action": "extend", "type": _listed(reader(option))}
        elif option.several == "entries":
            common |= {"action": "append", "type": entry}
        else:
            common["type"] = reader(option)
        group.add_argument(*option.flags, **common)


def given(parsed: argparse.Namespace, options: Iterable[Declared]) -> dict[str, Any]:
    """Of these options those that the command line gives, as the fields of the record."""
    found = {option.name: option for option in options if hasattr(parsed, option.name)}
    values = {name: getattr(parsed, name) for name in found}
    return {name: dict(value) if found[name].several == "entries" else value for name, value in values.items()}


def reader(option: Declared) -> Callable[[str], Any]:
    """Reads one value, within its limits."""
    if option.kind == "int":
        return _whole_number(int(option.at_least or 0), option.at_most)
    if option.kind == "float":
        return _number(option)
    if option.kind == "choice":
        return type(option.choices[0])
    return Path if option.kind == "path" else str


def whole_number(at_least: int) -> Callable[[str], int]:
    """Reads a whole number without a largest value."""
    return _whole_number(at_least, None)


def _whole_number(at_least: int, at_most: float | None) -> Callable[[str], int]:
    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = at_least - 1
        if value < at_least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of {at_least} or more")
        if at_most is not None and value > at_most:
            raise argparse.ArgumentTypeError(f"{text!r} is more than {at_most:g}")
        return value

    return read


def _number(option: Declared) -> Callable[[str], float]:
    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        for limit, words, kept in (
            (option.above, "a number above", operator.gt),
            (option.at_least, "a number of at least", operator.ge),
            (option.below, "below", operator.lt),
            (option.at_most, "at most", operator.le),
        ):
            if limit is not None and not (math.isfinite(value) and kept(value, limit)):
                raise argparse.ArgumentTypeError(f"{text!r} is not {words} {limit:g}")
        return value

    return read


def _listed(read: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    """``16`` or ``1,4,16``."""
    return lambda text: [read(part.strip()) for part in text.split(",")]


def entry(text: str) -> tuple[str, str]:
    """``key=value``; what the value is, ``image.yaml`` declares."""
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise argparse.ArgumentTypeError(f"{text!r} is not key=value")
    return key, value


def add_launch(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """What is of a launch and of no cell, the same in every container; its defaults are the mounts of one."""
    launch = parser.add_argument_group("This launch")
    launch.add_argument(
        "--assignment",
        metavar="FILE",
        help="below the data folder: cells that a driver has planned, instead of the above",
    )
    launch.add_argument("--run-id", metavar="NAME", help="folder below the results folder  [default: time and image]")
    launch.add_argument("--then", default="", metavar="COMMAND", help="told last to whoever started it by hand")
    launch.add_argument("--data", type=Path, default=layout.DATA_MOUNT)
    launch.add_argument("--results", type=Path, default=layout.RESULTS_MOUNT)
    return launch
