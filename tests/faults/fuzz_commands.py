"""Whole commands on a run of which one file holds a number that nobody measures: each ends with a code and words.

``verify``, ``report`` and ``--resume`` read every file of a run. Whatever stands in one, none may end in a traceback.
``python tests/faults/fuzz_commands.py --inputs 500`` (part of ``make fuzz``) is the long run; a test takes a few.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import io
import random
import re
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from null_run import null_run

from bench_core.contract.records import layout
from bench_core.drive.ask import cli as drive_cli
from bench_core.report import cli as report_cli
from bench_core.verify import cli as verify_cli

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = tuple(ROOT / "results" / "published" / name for name in ("2026-11-23-cpu-smollm2-b", "h200-memory"))
# Literals that JSON or YAML readers take, or nearly so, in the place of a number.
LITERALS: tuple[tuple[bytes, ...], ...] = (
    (b"9223372036854775808", b"-9223372036854775809", b"18446744073709551616", b"9" * 30, b"-" + b"9" * 400),
    (b"9223372036854775807", b"-9223372036854775808", b"-1", b"0", b"1000000000000", b"2147483648"),
    (b"1e308", b"-1e308", b"1.7976931348623157e308", b"1e400", b"1e30", b"-1e30", b"1e18"),
    (b"5e-324", b"1e-300", b"-0.0", b"0.0", b"1e-30"),
    (b"NaN", b"Infinity", b"-Infinity", b".nan", b".inf"),
    (b"9" * 5000, b"1" + b"0" * 308, b"1_000", b"0x" + b"f" * 40, b"true", b"null", b'"9"', b"[]", b"{}"),
    (b"[" * 200 + b"]" * 200, b"[" * 100_000, b'{"a":' * 200 + b"1" + b"}" * 200),
)
_KEY_OR_NUMBER = re.compile(
    rb"[\"'\s]?(?P<key>[a-z_A-Z]+)[\"']?\s*:|(?<=[\s:,\[])(?P<number>-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)(?=[\s,\]}])"
)
Span = tuple[int, int]
_RECORDS = (".json", ".jsonl", ".yaml", ".csv", ".gz")


def whole_run(results: Path) -> Path:
    """A complete run of the scripted engine in processes, with its searches, which ``--resume`` finds complete."""
    places = [f"--{name}={results.parent / name}" for name in ("data", "models")]
    options = ("--option", "null.ttft_s=0.001", "--option", "null.tpot_s=0.001")
    command = [sys.executable, "-m", "bench_core.drive", *null_run(samples=8), *options, "--run-id", "whole"]
    searches = ("--batch-sizes", "1,4", "--find-max-batch", "null.scripted")
    done = subprocess.run(
        [*command, *searches, f"--results={results}", *places], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return results / "whole"


@dataclass(frozen=True)
class Fault:
    """A command that ended as it must not."""

    command: str
    file: str
    literal: bytes
    what: str


class Commands:
    """The commands, each on a fresh copy of a run with one number replaced."""

    def __init__(self, run: Path, place: Path) -> None:
        self._place = place
        self._run = run
        self._data, self._models = run.parent.parent / "data", run.parent.parent / "models"

    def one(self, command: str, chance: random.Random) -> tuple[str, Fault | None]:
        """Draws an input and reads it; how the command ended, and what was wrong with that."""
        source = self._run if command == "resume" else chance.choice((self._run, *PUBLISHED))
        spoilt: list[tuple[str, bytes]] = []

        def spoil(copy: Path) -> None:
            path, literal = _spoil(copy, chance)
            spoilt.append((path.relative_to(copy).as_posix(), literal[:60]))

        what, ended = "", f"{command}: traceback"
        try:
            code, words = self.on(command, source, spoil)
            ended = f"{command}: exit code {code}"
            if code not in (0, 1, 2) or (code and not words.strip()):
                what = f"exit code {code}, and said {words[-200:]!r}"
        except BaseException as error:  # noqa: BLE001  # what this looks for
            where = traceback.extract_tb(error.__traceback__)[-1]
            what = f"{type(error).__name__}: {error!s:.200} at {Path(where.filename).name}:{where.lineno}"
        return ended, Fault(command, *spoilt[0], what) if what else None

    def on(self, command: str, source: Path, spoil: Callable[[Path], object]) -> tuple[int, str]:
        """Its exit code and words, on a copy of a run that has been spoilt."""
        copy = self._place / "results" / source.name
        shutil.rmtree(self._place / "results", ignore_errors=True)
        shutil.copytree(source, copy)
        spoil(copy)
        words = io.StringIO()
        return self._call(command, copy, words), words.getvalue()

    def _call(self, command: str, run: Path, words: io.StringIO) -> int:
        main, arguments = {
            "verify": (verify_cli.main, [str(run)]),
            "report": (report_cli.main, [str(run)]),
            "resume": (drive_cli.main, self._resume(run)),
        }[command]
        return _exit_code(main, [command, *arguments], words)

    def _resume(self, run: Path) -> list[str]:
        places = (f"--results={run.parent}", f"--data={self._data}", f"--models={self._models}")
        return ["--resume", run.name, "--yes", "--no-device-rates", *places]


def _exit_code(main: Callable[[], None], argv: list[str], words: io.StringIO) -> int:
    with contextlib.redirect_stdout(words), contextlib.redirect_stderr(words), mock.patch.object(sys, "argv", argv):
        try:
            main()
        except SystemExit as ended:
            return ended.code if isinstance(ended.code, int) else 0
    return 0


def _spoil(run: Path, chance: random.Random) -> tuple[Path, bytes]:
    """Replaces a number of one of the run's files; which, and with what. Kinds of files, fields within a file and kinds
    of literals are drawn alike, so that the one count in a plan is met as often as the million ids of the logs."""
    files = sorted(path for path in run.rglob("*") if path.is_file() and path.suffix in _RECORDS and not _is_page(path))
    kind = chance.choice(sorted({path.name for path in files}))
    path = chance.choice([path for path in files if path.name == kind])
    literal = chance.choice(chance.choice(LITERALS))
    put(path, literal, chance)
    return path, literal


def put(path: Path, literal: bytes, chance: random.Random) -> None:
    """Puts a literal into the place of a number of a file, drawn by its field."""

    def drawn(places: dict[str, list[Span]]) -> Span:
        return chance.choice(places[chance.choice(sorted(places))])

    _put(path, literal, drawn)


def put_last(path: Path, literal: bytes, field: str) -> None:
    """Puts a literal into the place of a field's last number; of an event log, that is in a measured batch."""
    _put(path, literal, lambda places: places[field][-1])


def _put(path: Path, literal: bytes, choose: Callable[[dict[str, list[Span]]], Span]) -> None:
    content = path.read_bytes()
    data = gzip.decompress(content) if path.suffix == ".gz" else content
    places = _fields(data)
    begin, end = choose(places) if places else (len(data) // 2, len(data) // 2)
    data = data[:begin] + literal + data[end:]
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)


def _fields(data: bytes) -> dict[str, list[Span]]:
    """Where numbers stand, by the key before them (in a text without keys, all under none)."""
    found: dict[str, list[Span]] = {}
    key = ""
    for match in _KEY_OR_NUMBER.finditer(data):
        if match["key"] is not None:
            key = match["key"].decode()
        else:
            found.setdefault(key, []).append(match.span("number"))
    return found


def _is_page(path: Path) -> bool:
    return path.suffix == ".html" or path.parent.name == layout.FIGURES_FOLDER


def fuzz(inputs: dict[str, int], seed: int, run: Path, place: Path) -> tuple[Counter[str], list[Fault]]:
    """As many inputs for each command; how they ended, and what went wrong."""
    chance = random.Random(seed)  # noqa: S311  # inputs, not secrets
    commands = Commands(run, place)
    counts: Counter[str] = Counter()
    found: list[Fault] = []
    for command, count in inputs.items():
        for _ in range(count):
            ended, fault = commands.one(command, chance)
            counts[ended] += 1
            found += [fault] if fault is not None else []
    return counts, found


def main() -> int:
    """The command line; exits with 1 if any command ended as it must not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="llm-bench-fuzz-") as place:
        run = whole_run(Path(place) / "made" / "results")
        shares = {"verify": given.inputs * 6 // 10, "report": given.inputs * 2 // 10, "resume": given.inputs * 2 // 10}
        counts, found = fuzz(shares, given.seed, run, Path(place))
    for line, count in sorted(counts.items()):
        sys.stdout.write(f"{count:8} {line}\n")
    for one in found[:50]:
        sys.stdout.write(f"{one.command} {one.file}: {one.literal!r}: {one.what}\n")
    sys.stdout.write(f"{given.inputs} inputs, {len(found)} faults\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
