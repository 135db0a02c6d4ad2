"""``python -m bench_core.drive``: one command from prompts to a table."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError

from bench_core import __version__
from bench_core.contract.asked.declaration import Declared, declared, flag_of
from bench_core.contract.errors import BadInput
from bench_core.contract.records.outcome import EXIT_INTERRUPTED, EXIT_MACHINE, EXIT_OK
from bench_core.contract.records.record import Record, describe
from bench_core.drive.ask import words
from bench_core.drive.ask.command import refuse
from bench_core.drive.ask.of_images import of_images
from bench_core.drive.ask.options import AsPath, Panels, click_option, given
from bench_core.drive.ask.request import SERVED_BY, Modes, Request, Suite
from bench_core.drive.launch.published import named_network
from bench_core.drive.plan.catalogue import Catalogue
from bench_core.drive.plan.engine_versions import joined, with_versions
from bench_core.drive.plan.named import image_of, methods_meant
from bench_core.drive.plan.resume import Earlier, find_run
from bench_core.drive.run.progress import printable
from bench_core.drive.run.session import Session
from bench_core.drive.show.web import Web
from bench_core.system.locks import Locks

# What is asked for is declared by the records; what decides where that is read from stands here.
_SUITE, _REQUEST, _MODES = declared(Suite), declared(Request), declared(Modes)
_SEARCHES = {"find_max_batch": "--find-max-batch", "find_capacity": "--find-capacity"}
_SELECTION = ("images", "variants", "batch_sizes", *SERVED_BY)


# Of the help's first panel.
_FIRST = (
    "suite", "resume", "images", "model", "dataset", "samples", "batch_sizes", "concurrency", "request_rate",
    "max_new_tokens", "device", "dry_run",
)  # fmt: skip
_PANELS: dict[type[Record], str] = {Suite: "The run: order, engines' options, searches", Request: "Folders"}
_WIDEST_HELP = 110


def _panel(option: Declared) -> str:
    """What an option is about, in the words of the record that declares it."""
    return _PANELS.get(option.origin) or (option.origin.__doc__ or "").split("\n")[0].rstrip(".")


def _command() -> click.Command:
    suite = click.Option(["--suite"], type=AsPath(), metavar="PATH", help="suite file; options given here count more")
    resume = click.Option(
        ["--resume"],
        metavar="RUN",
        help="name or folder of a run: measure what it lacks, and add the cells named here, if any",
    )
    listing = click.Option(
        ["--list-options"], is_flag=True, help="show what each engine (or those of --images) may be told, and stop"
    )
    version = click.Option(["--version"], is_flag=True, help="show the version and stop")
    return Panels(
        "drive",
        first=_FIRST,
        panels={option.name: _panel(option) for option in (*_SUITE, *_REQUEST, *_MODES)},
        context_settings={"max_content_width": _WIDEST_HELP},
        params=[
            suite,
            *(click_option(option) for option in _SUITE),
            *(click_option(option) for option in _REQUEST),
            resume,
            *(click_option(option, switch=option.default is False) for option in _MODES),
            listing,
            version,
        ],
        help=drive.__doc__,
        callback=click.pass_context(drive),
    )


def drive(context: click.Context, suite: Path | None, resume: str | None, **values: Any) -> None:
    """Measure inference engines, each in its own container, on the same prompts.

    Example: python -m bench_core.drive --images all --device cpu --batch-sizes 1,4
    """
    if values["version"]:
        click.echo(__version__)
        return
    catalogue = Catalogue()
    if values["list_options"]:
        for line in words.option_lines(values["images"] or (), catalogue):
            click.echo(json.dumps({"type": "option", "text": line}) if values["as_json"] else line)
        return
    asked, places, modes = given(values, _SUITE), given(values, _REQUEST), given(values, _MODES)
    locks = Locks()
    context.call_on_close(locks.close)
    earlier = _earlier(
        resume,
        places.get("results", Request.model_fields["results"].default),
        None if modes.get("dry_run") else locks,
        refused="run_id" in places or bool(modes.get("build_only") or modes.get("self_check")),
    )
    base = _base(suite, earlier, asked, catalogue)
    versions = words.engine_versions(asked.get("engine_version", ()))
    if versions:
        asked["engine_version"] = (
            joined(base.engine_version, versions) if suite is None else {**base.engine_version, **versions}
        )
    catalogue = with_versions(catalogue, asked.get("engine_version", base.engine_version))
    if suite is None:
        _complete(asked, modes.get("min_memory"), catalogue, resumed=resume is not None)
    named = words.options(asked.get("options", ()), catalogue)
    if named:
        asked["options"] = words.merged(base.options, named)
    if "artifacts" in asked:
        asked["artifacts"] = {**base.artifacts, **words.sources(asked["artifacts"])}
    try:
        merged = _of_each_version(Suite.model_validate({**base.model_dump(), **asked}), catalogue)
        whole = earlier is not None and suite is None and not asked.keys() & {*_SELECTION, "engine_version"}
        request = Request.model_validate({"suite": merged, "whole_run": whole, **places})
        told = {*asked, *(["suite"] if suite else [])}
        of_versions = {*versions, *(base.engine_version if suite is not None else ())}
        wanted = Modes.model_validate(
            {**modes, "options_of": frozenset(named), "versions_of": of_versions, "given": frozenset(told)}
        )
    except ValidationError as error:
        raise BadInput(_as_option(describe(error)), "see --help") from error
    _require_consent(merged, wanted)
    if wanted.again:
        earlier = _again(earlier, wanted.again)
    web = _web(wanted)
    if web is not None:
        context.call_on_close(web.close)
    if wanted.cluster is not None:
        from bench_core.drive.cluster.run import run_on_cluster  # noqa: PLC0415  # for who names one

        context.exit(run_on_cluster(request, wanted, earlier, locks, web))
    context.exit(Session(request, wanted, earlier, locks, web).run())


def _again(earlier: Earlier | None, words: tuple[str, ...]) -> Earlier:
    """The run without the cells that are to be measured again.

    Raises:
        BadInput: there is no run, or no such cell.
    """
    from bench_core.drive.ask.again import with_again  # noqa: PLC0415  # for who asks

    if earlier is None:
        raise BadInput("--again measures cells of a run again", "name the run by --resume")
    return with_again(earlier, words)


def _require_consent(suite: Suite, modes: Modes) -> None:
    """A load from other nodes opens a port of the servers' nodes, which somebody has to want.

    Raises:
        BadInput: nobody has said so, or what was said would change nothing.
    """
    if modes.serve_address is not None and not suite.client_nodes:
        raise BadInput("--serve-address would change nothing without --client-nodes", "see docs/fleet.md")
    if not suite.client_nodes:
        return
    nodes = f"--client-nodes {suite.client_nodes}"
    if not suite.loads:
        raise BadInput(f"{nodes}: closed batches have no client", "give --concurrency, --request-rate or --trace")
    if modes.cluster is None:
        raise BadInput(f"{nodes}: on one host there are no others", "name a cluster by --cluster; docs/fleet.md")
    if modes.serve_address is None:
        raise BadInput(
            f"{nodes}: servers would listen where other hosts reach them, and without asking who it is",
            "name the address or network for that by --serve-address, as 10.0.0.0/24; docs/security.md",
        )
    named_network(modes.serve_address)


def _base(suite: Path | None, earlier: Earlier | None, asked: Mapping[str, Any], catalogue: Catalogue) -> Suite:
    """What the command line adds to: a suite file, as far as it is of the images named, or what the run was asked for
    before."""
    if suite is not None:
        of_file = Suite.load(suite)
        return of_images(of_file, asked["images"], catalogue) if "images" in asked else of_file
    if earlier is None:
        return Suite()
    base = earlier.suite()
    if "images" in asked and "variants" not in asked:  # those of the run's other images
        base = base.model_copy(update={"variants": ()})
    return base


def _web(modes: Modes) -> Web | None:
    """The port of ``--watch``, taken before anything else is done.

    Raises:
        BadInput: it cannot be had, or there will be no run.
    """
    if modes.watch is None or modes.dry_run:
        return None
    if modes.build_only or modes.self_check:
        raise BadInput("--watch shows a run", "leave out --build-only and --self-check")
    return Web(modes.watch)


def _of_each_version(suite: Suite, catalogue: Catalogue) -> Suite:
    """The searches of a suite, for each version of their engines."""
    searches = {
        name: methods_meant(getattr(suite, name), flag, catalogue)
        for name, flag in _SEARCHES.items()
        if getattr(suite, name)
    }
    return suite.model_copy(update=searches)


def _complete(asked: dict[str, Any], min_memory: str | None, catalogue: Catalogue, *, resumed: bool) -> None:
    """What follows from what a command line asks for, where there is no suite file: a search says which cells it begins
    with, versions of an engine which images are meant, and a load over HTTP that no closed batches are."""
    if not resumed and not asked.keys() & {*_SELECTION}:
        asked |= _selection_of_searches(min_memory, asked, catalogue)
    if not resumed and asked.get("engine_version"):
        asked.setdefault("images", tuple(asked["engine_version"]))
    if asked.keys() & {*SERVED_BY}:
        asked.setdefault("batch_sizes", ())
    elif not resumed and asked.get("find_capacity") and "batch_sizes" not in asked:
        first = asked.get("capacity_start", Suite().capacity_start)
        varied = asked.get("capacity_of", Suite().capacity_of)
        asked |= {"batch_sizes": (), varied: (max(int(first), 1) if varied == "concurrency" else first,)}


def _selection_of_searches(cell: str | None, asked: dict[str, Any], catalogue: Catalogue) -> dict[str, Any]:
    """Where a search is asked for and no cells are, those that it begins with."""
    if cell is not None:
        image, variant, size = words.parts_of_cell(cell, "--min-memory", catalogue)
        return {"images": (image,), "variants": (variant,), "batch_sizes": (size,)}
    for name, flag in _SEARCHES.items():
        if (methods := asked.get(name)) is not None:
            images = tuple(image_of(method, flag, catalogue).name for method in methods or ("",))
            return {
                "images": images,
                "variants": methods,
                **({"batch_sizes": (1,)} if name == "find_max_batch" else {}),
            }
    return {}


def _earlier(run: str | None, results: Path, locks: Locks | None, *, refused: bool) -> Earlier | None:
    if run is None:
        return None
    if refused:
        raise BadInput("--resume goes on with a run", "leave out --run-id, --build-only and --self-check")
    folder = find_run(run, results)
    if locks is not None:  # before reading: what another driver is writing is not for judging
        locks.hold_run(folder)
    return Earlier.load(folder)


def _as_option(problem: str) -> str:
    """``suite.batch_sizes.0: ...`` as ``--batch-sizes: ...``."""
    where, _, what = problem.partition(": ")
    key = where.removeprefix("suite.").split(".")[0]
    record = next((record for record in (Suite, Request, Modes) if key in record.model_fields), None)
    return f"{flag_of(record, key)}: {what}" if what and record is not None else problem


def main(prog_name: str = "python -m bench_core.drive") -> None:
    """Runs the command line; every misuse is a line of cause, a line of hint, and exit code 2; every failure of this
    machine the same with exit code 3."""
    try:
        code = _command().main(prog_name=prog_name, standalone_mode=False)
    except BadInput as error:
        refuse(error)
    except click.ClickException as error:
        refuse(BadInput(error.format_message(), "see --help"))
    except OSError as error:  # a full disk, a folder that has gone; complete cells are whole
        where = f"{error.filename}: " if error.filename else ""
        cause = printable(f"{where}{error.strerror or error}")
        sys.stderr.write(f"error: {cause}\nhint: mend that, then --resume the run\n")
        sys.exit(EXIT_MACHINE)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(EXIT_INTERRUPTED)
    sys.exit(code or EXIT_OK)
