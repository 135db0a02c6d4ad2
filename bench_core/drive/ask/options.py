"""Options for click of the fields that a record declares; the worker makes its own of the same with argparse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from bench_core.contract.asked.declaration import Declared
from bench_core.drive.ask import words

_LONGEST_LIMIT = 1e9
_FIRST, _OTHERS = "Options that matter first", "Others"


class Listed(click.ParamType[Any]):
    """``a,b``; of numbers ``1,4,16``."""

    name = "list"

    def __init__(self, option: Declared) -> None:
        self._option = option

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ARG002
        """The words or numbers.

        Raises:
            BadInput: numbers are wanted and these are none.
        """
        if not isinstance(value, str):
            return value
        if self._option.kind in ("int", "float"):
            return words.numbers(value, self._option.flag, self._option.kind)
        return words.listed(value)


class AsPath(click.ParamType[Any]):
    """A path as it is written. Whoever opens it says what is wrong with it.

    click's own type looks already, and ends in a traceback where no path can have that name.
    """

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ARG002
        """The path."""
        return Path(value)


def click_option(option: Declared, *, switch: bool = False) -> click.Option:
    """The option; its value is ``None`` where it is not given, so that a suite file can count less.

    Args:
        switch: of a truth value: it can be said, and not be unsaid.
    """
    flags = option.flags
    if option.kind == "bool" and not switch:
        flags = tuple(f"{flag}/--no-{flag.removeprefix('--')}" for flag in flags)
    several = {"multiple": True} if option.several == "entries" else {}
    kind: dict[str, Any] = {"is_flag": True} if option.kind == "bool" else {"type": _type(option)}
    if option.kind not in ("bool", "choice"):
        kind["metavar"] = option.metavar
    return click.Option(
        [*flags, option.name],
        default=None,
        help=option.words,
        envvar=option.said.variable or None,
        show_envvar=bool(option.said.variable),
        **several,
        **kind,
    )


def given(values: Mapping[str, Any], options: Sequence[Declared]) -> dict[str, Any]:
    """Of these options those that were given."""
    found = {option.name: values[option.name] for option in options if values[option.name] is not None}
    entries = {option.name for option in options if option.several == "entries"}
    return {name: value for name, value in found.items() if value or name not in entries}


def _type(option: Declared) -> click.ParamType[Any]:
    if option.several == "list":
        return Listed(option)
    if option.kind in ("int", "float"):
        return _number(option)
    plain: dict[str, click.ParamType[Any]] = {
        "str": click.STRING,
        "path": AsPath(),
        "choice": click.Choice(option.choices),
    }
    return plain[option.kind]


def _number(option: Declared) -> click.ParamType[Any]:
    least = option.at_least if option.at_least is not None else option.above
    most = option.at_most if option.at_most is not None else option.below
    if most is not None and most > _LONGEST_LIMIT:
        most = None  # the record has it; in a help text it would only be long
    limits = {"min_open": option.above is not None, "max_open": option.below is not None}
    number: click.ParamType[Any] = click.FloatRange(least, most, **limits)
    if option.kind == "int":
        number = click.IntRange(None if least is None else int(least), None if most is None else int(most), **limits)
    number.name = "whole number" if option.kind == "int" else "number"  # of "'x' is not a valid ..."
    return number


class Panels(click.Command):
    """A command whose help shows its options in panels: first those that most calls need, then the others by what they
    are about."""

    def __init__(self, *parts: Any, first: Sequence[str], panels: Mapping[str, str], **more: Any) -> None:
        """``first``: names of the options of the first panel; ``panels``: of each other option its panel."""
        super().__init__(*parts, **more)
        self._first, self._panels = first, panels

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the panels."""
        found: dict[str, list[tuple[str, str]]] = {_FIRST: []}
        params = {param.name or "": param for param in self.get_params(ctx)}
        ordered = [*self._first, *(name for name in params if name not in self._first)]
        for name in ordered:
            shown = params[name].get_help_record(ctx)
            if shown is not None:
                panel = _FIRST if name in self._first else self._panels.get(name, _OTHERS)
                found.setdefault(panel, []).append(shown)
        for title, rows in found.items():
            with formatter.section(title):
                formatter.write_dl(rows)
