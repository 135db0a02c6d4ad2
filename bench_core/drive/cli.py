"""``python -m bench_core.drive``: one command from prompts to a table."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from pydantic import ValidationError

from bench_core import __version__
from bench_core.contract.errors import BadInput, MachineFailure
from bench_core.contract.outcome import EXIT_BAD_INPUT, EXIT_INTERRUPTED, EXIT_MACHINE, EXIT_OK
from bench_core.contract.record import describe
from bench_core.drive import words
from bench_core.drive.catalogue import Catalogue
from bench_core.drive.locks import Locks
from bench_core.drive.plan import image_of
from bench_core.drive.progress import printable
from bench_core.drive.request import Request, Suite
from bench_core.drive.resume import Earlier, find_run
from bench_core.drive.session import Modes, Session

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def drive(
    context: typer.Context,
    images: Annotated[str | None, typer.Option(help="Images, comma-separated, or all.")] = None,
    variants: Annotated[
        str | None, typer.Option(help="image.variant or variant, comma-separated, or all  [default: each image's own]")
    ] = None,
    batch_sizes: Annotated[str | None, typer.Option(help="Comma-separated  [default: 1,4,16]")] = None,
    suite: Annotated[Path | None, typer.Option(help="Suite file; options given here count more.")] = None,
    model: Annotated[
        str | None, typer.Option(help="synthetic/<shape>, a hub id or a folder  [default: synthetic/tiny]")
    ] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="Folder of a tokenizer that replaces the model's.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a model from the hub.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of synthetic weights.")] = None,
    dataset: Annotated[
        str | None, typer.Option(help="embedded, a hub id, a file or a folder  [default: embedded]")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split of the dataset  [default: validation]")] = None,
    text_column: Annotated[
        str | None,
        typer.Option(help="Column of the prompts  [default: docs/models-and-data.md]"),
    ] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Prompts to take  [default: all]")] = None,
    sample_order: Annotated[
        str | None, typer.Option(help="Of these: shuffled, or dataset to keep the dataset's  [default: shuffled]")
    ] = None,
    sample_seed: Annotated[int | None, typer.Option(min=0, help="Seed of that shuffle  [default: 0]")] = None,
    max_prompt_tokens: Annotated[
        int | None, typer.Option(min=1, help="Longer prompts lose their beginning  [default: 1024, or what fits]")
    ] = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="[default: 64]")] = None,
    length: Annotated[
        str | None, typer.Option(help="forced (exactly that many new tokens) or natural  [default: forced]")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cuda or cpu  [default: auto]")] = None,
    gpus: Annotated[str | None, typer.Option(help="Indices or UUIDs, or all  [default: the first]")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of every engine  [default: all]")] = None,
    launcher: Annotated[str | None, typer.Option(help="auto, docker or process  [default: auto]")] = None,
    warmup_batches: Annotated[
        int | None, typer.Option(min=1, help="Discarded batches of each cell, at least  [default: 1]")
    ] = None,
    max_warmup_batches: Annotated[
        int | None,
        typer.Option(min=1, help="Discarded until latencies show no trend, at most  [default: 20; 1: no test]"),
    ] = None,
    max_warmup_seconds: Annotated[
        float | None, typer.Option(help="Of warm-up beyond --warmup-batches  [default: 15]")
    ] = None,
    precision: Annotated[
        float | None,
        typer.Option(help="Measure until throughput's 95 % interval is within this share of it  [default: 0.01]"),
    ] = None,
    exhaustive: Annotated[
        bool | None,
        typer.Option("--exhaustive/--no-exhaustive", help="Measure the whole workload, whatever the precision."),
    ] = None,
    max_seconds: Annotated[float | None, typer.Option(help="Of measuring, for each cell  [default: no limit]")] = None,
    max_batches: Annotated[
        int | None, typer.Option(min=1, help="Measured batches of each cell, at most  [default: whole workload]")
    ] = None,
    repeats: Annotated[
        int | None, typer.Option(min=1, help="Measure the whole grid so often, in random order  [default: 1]")
    ] = None,
    order_seed: Annotated[int | None, typer.Option(min=0, help="Seed of that order  [default: 0]")] = None,
    direct_batches: Annotated[
        int | None, typer.Option(min=0, help="Batches of each cell given to the engine directly too, for parity.")
    ] = None,
    direct_rounds: Annotated[int | None, typer.Option(min=1, help="Each of them so often  [default: 1]")] = None,
    direct_batch_sizes: Annotated[str | None, typer.Option(help="Where to do so  [default: at all]")] = None,
    beside: Annotated[
        Path | None, typer.Option(help="Published figures to show beside the run's own, as docs/study.yaml.")
    ] = None,
    score_texts: Annotated[
        int | None, typer.Option(min=0, help="Texts whose log-likelihood each variant is asked for  [default: 8]")
    ] = None,
    max_nll_increase: Annotated[
        float | None, typer.Option(help="nat/token above the reference's; not ranked beyond  [default: 0.5]")
    ] = None,
    min_agreement: Annotated[
        float | None,
        typer.Option(help="Share of rows with the reference's first token; not ranked below  [default: 0.1]"),
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="IMAGE.KEY=VALUE: an engine's option, see --list-options. May be repeated.")
    ] = None,
    control: Annotated[
        str | None, typer.Option(help="IMAGE.VARIANT.bN: measured first at every visit of a run, to compare machines.")
    ] = None,
    artifact: Annotated[
        list[str] | None,
        typer.Option(help="NAME=SOURCE: taken from a hub id[@revision] or a folder, not converted. May be repeated."),
    ] = None,
    no_harness_check: Annotated[
        bool, typer.Option("--no-harness-check", help="Do not measure the suite's own error before the cells.")
    ] = False,
    calibration: Annotated[
        bool | None,
        typer.Option(
            "--calibration/--no-calibration",
            help="Measure each device's bandwidth and matrix rate at the visit  [default: where it costs seconds]",
        ),
    ] = None,
    min_memory: Annotated[
        str | None,
        typer.Option(help="IMAGE.VARIANT.bN: find the smallest memory budget that sustains it (and measure it)."),
    ] = None,
    find_max_batch: Annotated[
        str | None,
        typer.Option(help="IMAGE.VARIANT, comma-separated: find the largest batch size of each that fits into memory."),
    ] = None,
    max_batch_limit: Annotated[
        int | None, typer.Option(min=1, help="Of that search: try no larger one  [default: the number of prompts]")
    ] = None,
    on_busy: Annotated[
        str | None,
        typer.Option(
            envvar="BENCH_ON_BUSY", help="Where others use the device: wait, refuse or ignore  [default: wait]"
        ),
    ] = None,
    busy_wait_s: Annotated[float | None, typer.Option(min=0, help="Wait so long, then refuse  [default: 600]")] = None,
    busy_cpus: Annotated[
        float | None,
        typer.Option(
            envvar="BENCH_BUSY_CPUS",
            help="Mark a cell where others take the time of so many CPUs  [default: a tenth, 0.4 at most]",
        ),
    ] = None,
    load_timeout_s: Annotated[float | None, typer.Option(min=0, help="Until loaded  [default: 3600]")] = None,
    prepare_timeout_s: Annotated[float | None, typer.Option(min=0, help="For caches, graphs  [default: 3600]")] = None,
    batch_timeout_s: Annotated[float | None, typer.Option(min=0, help="For one batch  [default: 3600]")] = None,
    cell_timeout_s: Annotated[float | None, typer.Option(min=0, help="For one cell  [default: 86400]")] = None,
    results: Annotated[Path, typer.Option(help="Folder of results.")] = Path("results"),
    data: Annotated[Path, typer.Option(help="Folder of workloads.")] = Path("data"),
    models: Annotated[Path, typer.Option(help="Folder of models and artifacts.")] = Path("models"),
    run_id: Annotated[str | None, typer.Option(help="Name of the run's folder  [default: the time]")] = None,
    resume: Annotated[
        str | None,
        typer.Option(help="Name or folder of a run: measure what it lacks, and add the cells named here, if any."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and stop; nothing is written.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before a download or a long run.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="News and result as JSON lines on standard output.")] = False,
    build_only: Annotated[bool, typer.Option("--build-only", help="Build images and converters, then stop.")] = False,
    self_check: Annotated[bool, typer.Option("--self-check", help="Run each image's contract suite instead.")] = False,
    list_options: Annotated[
        bool, typer.Option("--list-options", help="Show what each engine (or those of --images) may be told, and stop.")
    ] = False,
    version: Annotated[bool, typer.Option("--version", help="Show the version and stop.")] = False,
) -> None:
    """Measure inference engines, each in its own container, on the same prompts.

    Example: python -m bench_core.drive --images all --device cpu --batch-sizes 1,4
    """
    if version:
        typer.echo(__version__)
        return
    catalogue = Catalogue()
    if list_options:
        for line in words.option_lines(words.listed(images) or (), catalogue):
            typer.echo(json.dumps({"type": "option", "text": line}) if as_json else line)
        return
    locks = Locks()
    context.call_on_close(locks.close)
    earlier = _earlier(
        resume, results, None if dry_run else locks, refused=run_id is not None or build_only or self_check
    )
    if suite is not None:
        base = Suite.load(suite)
    elif earlier is not None:
        base = earlier.suite()
        if images is not None and variants is None:  # those of the run's other images
            base = base.model_copy(update={"variants": ()})
    else:
        base = Suite()
    if min_memory is not None and all(given is None for given in (suite, resume, images, variants, batch_sizes)):
        images, variants, batch_sizes = words.parts_of_cell(min_memory, "--min-memory", catalogue)
    if find_max_batch is not None and all(given is None for given in (suite, resume, images, variants, batch_sizes)):
        methods = words.listed(find_max_batch) or ("",)
        images = ",".join(image_of(method, "--find-max-batch", catalogue).name for method in methods)
        variants, batch_sizes = find_max_batch, "1"
    given_options = words.options(option or [], catalogue)
    given: dict[str, Any] = {
        "images": words.listed(images),
        "variants": words.listed(variants),
        "batch_sizes": words.batch_sizes(batch_sizes, "--batch-sizes"),
        "model": model,
        "tokenizer": tokenizer,
        "revision": revision,
        "seed": seed,
        "dataset": dataset,
        "split": split,
        "text_column": text_column,
        "samples": samples,
        "sample_order": sample_order,
        "sample_seed": sample_seed,
        "max_prompt_tokens": max_prompt_tokens,
        "max_new_tokens": max_new_tokens,
        "length": length,
        "warmup_batches": warmup_batches,
        "max_warmup_batches": max_warmup_batches,
        "max_warmup_seconds": max_warmup_seconds,
        "precision": precision,
        "exhaustive": exhaustive,
        "max_seconds": max_seconds,
        "max_batches": max_batches,
        "repeats": repeats,
        "order_seed": order_seed,
        "direct_batches": direct_batches,
        "direct_rounds": direct_rounds,
        "beside": beside,
        "direct_batch_sizes": words.batch_sizes(direct_batch_sizes, "--direct-batch-sizes"),
        "score_texts": score_texts,
        "max_nll_increase": max_nll_increase,
        "min_agreement": min_agreement,
        "threads": threads,
        "device": device,
        "gpus": words.listed(gpus),
        "launcher": launcher,
        "options": words.merged(base.options, given_options) if given_options else None,
        "control": control,
        "harness_check": False if no_harness_check else None,
        "find_max_batch": words.listed(find_max_batch),
        "max_batch_limit": max_batch_limit,
        "on_busy": on_busy,
        "busy_wait_s": busy_wait_s,
        "busy_cpus": busy_cpus,
        "load_timeout_s": load_timeout_s,
        "prepare_timeout_s": prepare_timeout_s,
        "batch_timeout_s": batch_timeout_s,
        "cell_timeout_s": cell_timeout_s,
        "artifacts": {**base.artifacts, **words.sources(artifact)} if artifact else None,
    }
    try:
        merged = Suite.model_validate(
            {**base.model_dump(), **{key: value for key, value in given.items() if value is not None}}
        )
        request = Request.model_validate(
            {
                "suite": merged,
                "results": results,
                "data": data,
                "models": models,
                "run_id": run_id,
                "whole_run": earlier is not None
                and all(word is None for word in (suite, images, variants, batch_sizes)),
            }
        )
    except ValidationError as error:
        raise BadInput(_as_option(describe(error)), "see --help") from error
    told = frozenset(key for key, value in given.items() if value is not None) | ({"suite"} if suite else set())
    modes = Modes(
        dry_run, yes, as_json, build_only, self_check, calibration, min_memory, frozenset(given_options), told
    )
    raise typer.Exit(Session(request, modes, earlier, locks).run())


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
    key = where.removeprefix("suite.").split(".")[0].replace("_", "-")
    key = {"artifacts": "artifact", "options": "option"}.get(key, key)  # given one by one on the command line
    return f"--{key}: {what}" if what else problem


def refuse(error: BadInput) -> NoReturn:
    """Ends the process with one line of cause and one of what to do; code 3 where it is this machine that failed."""
    hint = f"hint: {printable(error.hint)}\n" if error.hint else ""
    sys.stderr.write(f"error: {printable(error.cause)}\n{hint}")
    sys.exit(EXIT_MACHINE if isinstance(error, MachineFailure) else EXIT_BAD_INPUT)


def main(prog_name: str = "python -m bench_core.drive") -> None:
    """Runs the command line; every misuse is a line of cause, a line of hint, and exit code 2; every failure of this
    machine the same with exit code 3."""
    try:
        code = typer.main.get_command(app).main(prog_name=prog_name, standalone_mode=False)
    except BadInput as error:
        refuse(error)
    except typer.TyperException as error:
        refuse(BadInput(error.format_message(), "see --help"))
    except OSError as error:  # a full disk, a folder that has gone; complete cells are whole
        where = f"{error.filename}: " if error.filename else ""
        cause = printable(f"{where}{error.strerror or error}")
        sys.stderr.write(f"error: {cause}\nhint: mend that, then --resume the run\n")
        sys.exit(EXIT_MACHINE)
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(EXIT_INTERRUPTED)
    sys.exit(code or EXIT_OK)
