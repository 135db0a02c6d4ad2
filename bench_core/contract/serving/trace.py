"""Recorded loads: a file of one request a line, with its time, its prompt or the prompt's length, and its output.

Two forms are read. The suite's own:

    {"arrival_s": 0.0, "prompt_token_ids": [1, 2, 3], "output_tokens": 20}
    {"arrival_s": 0.5, "text": "Once upon", "output_tokens": 20}
    {"arrival_s": 0.9, "prompt_tokens": 512, "output_tokens": 20}

And Mooncake's (Qin et al., "Mooncake: Trading More Storage for Less Computation", FAST 2025; its public traces), where
each hash id stands for a block of 512 tokens, so that prompts share their beginnings as the original ones did:

    {"timestamp": 27482, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47, 2353]}
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench_core.contract.errors import BadInput, shortened
from bench_core.contract.records.digest import prompts_sha256
from bench_core.contract.records.workload import Workload
from bench_core.contract.serving.load import Serve
from bench_core.contract.serving.schedule import Schedule

BLOCK_TOKENS = 512
# A file is not to be trusted: what no real trace comes near is refused before it costs memory.
MOST_LINES = 1_000_000
MOST_LINE_BYTES = 32 * 2**20
MOST_TOKENS = 2_000_000  # of one prompt or output
MOST_TRACE_TOKENS = 200_000_000  # of all prompts
MOST_SECONDS = 10_000_000.0
_LARGEST_ID = 2**31 - 1
_LARGEST_HASH = 2**63 - 1

Encode = Callable[[str], Sequence[int]]


class TraceRequest(NamedTuple):
    """One line.

    Attributes:
        offset_us: whole microseconds after the trace's first request.
        prompt: token ids.
        output_tokens: that it is to write.
    """

    offset_us: int
    prompt: tuple[int, ...]
    output_tokens: int


class _Wrong(Exception):
    """What is wrong with a line, in words."""


def read_trace(path: Path, pool: Sequence[int], encode: Encode | None = None) -> list[TraceRequest]:
    """Reads a trace.

    Args:
        pool: token ids that prompts of a given length are made of, different from each other; the same pool and file
            give the same prompts on every machine.
        encode: text to token ids; without it a line with ``text`` is refused.

    Raises:
        BadInput: the file cannot be read or is no trace; names the line.
    """
    try:
        with path.open("rb") as stream:
            return parse_trace(_lines(iter(lambda: stream.readline(MOST_LINE_BYTES + 1), b"")), str(path), pool, encode)
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror or error}") from error


def _lines(found: Iterable[bytes]) -> Iterable[bytes]:
    for number, line in enumerate(found):
        yield line
        if number > MOST_LINES or len(line) > MOST_LINE_BYTES:
            return


def parse_trace(
    lines: Iterable[bytes], origin: str, pool: Sequence[int], encode: Encode | None = None
) -> list[TraceRequest]:
    """As ``read_trace``, of lines; ``origin`` names the file in the errors. Empty lines are skipped."""
    if not pool or min(pool) < 0 or max(pool) > _LARGEST_ID:
        raise BadInput("prompts of a trace need a pool of token ids from 0 to 2**31 - 1")
    found: list[TraceRequest] = []
    first_s: float | None = None
    tokens = 0
    for number, line in enumerate(lines, 1):
        try:
            if number > MOST_LINES:
                raise _Wrong(f"more than {MOST_LINES} lines")
            if not line.strip():
                continue
            given = _object(line)
            arrival_s = _arrival(given)
            first_s = arrival_s if first_s is None else first_s
            offset_us = round((arrival_s - first_s) * 1e6)
            if offset_us < (found[-1].offset_us if found else 0):
                raise _Wrong("it arrives before the request of the line before")
            prompt = _prompt(given, number, pool, encode, MOST_TRACE_TOKENS - tokens)
            tokens += len(prompt)
            output = _whole(given, "output_length" if "timestamp" in given else "output_tokens", 1, MOST_TOKENS)
        except _Wrong as wrong:
            raise BadInput(f"{origin}:{number}: {wrong}", "each line is one request as a JSON object") from wrong
        found.append(TraceRequest(offset_us, prompt, output))
    if not found:
        raise BadInput(f"{origin}: no request in it")
    return found


def trace_schedule(requests: Sequence[TraceRequest], prompts: Sequence[int]) -> Schedule:
    """The schedule of a trace; ``prompts`` are the places of its prompts in the workload."""
    return Schedule.made(
        Serve(load="trace"),
        0,
        [request.offset_us for request in requests],
        prompts,
        [request.output_tokens for request in requests],
    )


def traced(
    path: Path, workload: Workload, special: int, most_output: int, encode: Encode | None = None
) -> tuple[Workload, Schedule]:
    """The prompts of a trace, and when each is sent. Lines that tell a prompt's length alone get ids of ``workload``.

    Args:
        special: ids at each of its prompts' beginning that a tokenizer puts there.
        most_output: output tokens of a request, at most.
        encode: text to token ids; without it a line with ``text`` is refused.

    Raises:
        BadInput: the file cannot be used, or asks for longer outputs.
    """
    pool = sorted({one for prompt in workload.prompts for one in prompt[special:]})
    requests = read_trace(path, pool, encode)
    longest = max(request.output_tokens for request in requests)
    if longest > most_output:
        raise BadInput(
            f"{path}: a request asks for {longest} output tokens, and --max-new-tokens is {most_output}",
            f"give --max-new-tokens {longest}",
        )
    places: dict[tuple[int, ...], int] = {}
    order = [places.setdefault(request.prompt, len(places)) for request in requests]
    prompts = tuple(places)
    found = Workload(
        name=f"trace {path.stem}",
        tokenizer=workload.tokenizer,
        max_prompt_tokens=max(map(len, prompts)),
        truncated=0,
        dropped_empty=0,
        duplicates=0,
        digest=prompts_sha256(prompts),
        prompts=prompts,
    )
    return found, trace_schedule(requests, order)


_OWN_PROMPTS = ("prompt_token_ids", "text", "prompt_tokens")
_OWN = {"arrival_s", "output_tokens", *_OWN_PROMPTS}
_MOONCAKE = {"timestamp", "input_length", "output_length", "hash_ids"}


def _object(line: bytes) -> dict[str, Any]:
    if len(line) > MOST_LINE_BYTES:
        raise _Wrong(f"longer than {MOST_LINE_BYTES} bytes")
    try:
        given = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _Wrong(f"no JSON: {shortened(' '.join(str(error).split()), 200)}") from error
    if not isinstance(given, dict):
        raise _Wrong("no JSON object")
    known = _MOONCAKE if "timestamp" in given else _OWN
    for key in given:
        if key not in known:
            raise _Wrong(f"unknown key {shortened(repr(key), 100)}; known are {', '.join(sorted(known))}")
    return given


def _arrival(given: dict[str, Any]) -> float:
    name, unit_s = ("timestamp", 1e-3) if "timestamp" in given else ("arrival_s", 1.0)
    if name not in given:
        raise _Wrong(f"{name} is missing")
    value = given[name]
    # A whole number may be too large for a fraction, so it is compared before it becomes one.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MOST_SECONDS / unit_s:
        raise _Wrong(f"{name} is {_shown(value)}: a time is a number from 0 to {MOST_SECONDS / unit_s:g}")
    return float(value) * unit_s


def _whole(given: dict[str, Any], name: str, least: int, most: int) -> int:
    if name not in given:
        raise _Wrong(f"{name} is missing")
    return _is_whole(given[name], name, least, most)


def _is_whole(value: Any, name: str, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise _Wrong(f"{name} is {_shown(value)}: a whole number from {least} to {most}")
    return value


def _list(value: Any, name: str, largest: int) -> list[int]:
    if not isinstance(value, list) or not value or len(value) > MOST_TOKENS:
        raise _Wrong(f"{name} is no list of 1 to {MOST_TOKENS} whole numbers")
    return [_is_whole(one, f"a number of {name}", 0, largest) for one in value]


def _shown(value: Any) -> str:
    if isinstance(value, int) and abs(value) > _LARGEST_HASH:
        return "a number of many digits"
    return shortened(repr(value), 100)


def _prompt(
    given: dict[str, Any], number: int, pool: Sequence[int], encode: Encode | None, left: int
) -> tuple[int, ...]:
    prompt = (
        _mooncake_prompt(given, pool, left) if "timestamp" in given else _own_prompt(given, number, pool, encode, left)
    )
    if len(prompt) > left:
        raise _Wrong(_too_many())
    return prompt


def _too_many() -> str:
    return f"the prompts up to here have more than {MOST_TRACE_TOKENS} tokens"


def _own_prompt(
    given: dict[str, Any], number: int, pool: Sequence[int], encode: Encode | None, left: int
) -> tuple[int, ...]:
    there = [name for name in _OWN_PROMPTS if name in given]
    if len(there) != 1:
        raise _Wrong(f"one of {', '.join(_OWN_PROMPTS)} is needed, and {len(there)} are given")
    if there == ["prompt_token_ids"]:
        return tuple(_list(given["prompt_token_ids"], "prompt_token_ids", _LARGEST_ID))
    if there == ["prompt_tokens"]:
        count = _whole(given, "prompt_tokens", 1, MOST_TOKENS)
        if count > left:
            raise _Wrong(_too_many())
        return _made(pool, f"line/{number}", count)
    if not isinstance(given["text"], str):
        raise _Wrong(f"text is {_shown(given['text'])}: no text")
    if encode is None:
        raise _Wrong("it has a text, and there is no tokenizer to read it by")
    ids = tuple(encode(given["text"]))
    if not 1 <= len(ids) <= MOST_TOKENS:
        raise _Wrong(f"the text has {len(ids)} tokens: from 1 to {MOST_TOKENS}")
    return ids


def _mooncake_prompt(given: dict[str, Any], pool: Sequence[int], left: int) -> tuple[int, ...]:
    count = _whole(given, "input_length", 1, MOST_TOKENS)
    if count > left:
        raise _Wrong(_too_many())
    hashes = _list(given.get("hash_ids"), "hash_ids", _LARGEST_HASH)
    if len(hashes) != math.ceil(count / BLOCK_TOKENS):
        raise _Wrong(
            f"{count} tokens are {math.ceil(count / BLOCK_TOKENS)} blocks of {BLOCK_TOKENS}, and hash_ids has "
            f"{len(hashes)}"
        )
    ids: list[int] = []
    for one in hashes:
        ids += _made(pool, f"block/{one}", min(BLOCK_TOKENS, count - len(ids)))
    return tuple(ids)


def _made(pool: Sequence[int], name: str, count: int) -> tuple[int, ...]:
    """Token ids that follow from a name: places in the pool, by four bytes each of SHAKE-128 of it. Fewer are the
    beginning of more."""
    drawn = hashlib.shake_128(name.encode()).digest(4 * count)
    size = len(pool)
    return tuple(pool[int.from_bytes(drawn[at : at + 4], "little") % size] for at in range(0, 4 * count, 4))
