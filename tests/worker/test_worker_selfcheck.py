"""The contract suite finds each broken promise, and only that one; what is declared is recorded, not forgiven twice."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from worker_material import Place, write_image

from bench_core.contract.asked.manifest import Manifest
from bench_core.contract.records.workload import Workload
from bench_core.worker import by_hand, selfcheck
from bench_core.worker.engine.job import CheckEvent, Job

NAMES = [check.__name__ for check in selfcheck.CHECKS]


@pytest.fixture(autouse=True)
def _fresh_imports(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test's image has its own `adapter`."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(sys, "path", list(sys.path))
    sys.modules.pop("adapter", None)
    yield
    sys.modules.pop("adapter", None)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place.prepared(tmp_path / "place")


def checked(place: Place, image: Path) -> dict[str, CheckEvent]:
    """All checks on an image, in this process."""
    resolver = by_hand.resolver_of(by_hand.build_parser().parse_args(place.arguments(image=image)))
    request, workload = resolver.measure_request("self-check")
    job = Job(
        task="self-check", image_folder=image, artifact=request.artifact, workload=request.workload, cells=request.cells
    )
    bench = selfcheck.Bench(job, Manifest.load(image), job.cells[0], Workload.read(job.workload))
    assert bench.workload == workload
    checks = [selfcheck.judge(check, bench) for check in selfcheck.CHECKS]
    bench.close()
    assert [check.name for check in checks] == NAMES
    return {check.name: check for check in checks}


def outcomes(checks: dict[str, CheckEvent], outcome: str) -> list[str]:
    return [name for name, check in checks.items() if check.outcome == outcome]


def test_the_scripted_engine_keeps_every_promise(place: Place) -> None:
    ran = place.run("--self-check", "--option", "ttft_s=0.001", "--option", "tpot_s=0.0001")
    assert ran.code == 0
    assert [(line["name"], line["outcome"]) for line in ran.lines()] == [(name, "passed") for name in NAMES]
    assert f"{len(NAMES)} checks, 0 failed" in ran.err
    assert list(place.results.iterdir()) == []


# For each check an adapter that breaks its promise and no other.
BROKEN = {
    # An engine that cannot give fewer than two tokens.
    "forced_length": """
    def generate(self, prompts, decoding, on_tokens):
        if decoding.max_new_tokens == 1:
            decoding = type(decoding)(2, decoding.eos_token_ids)
        return super().generate(prompts, decoding, on_tokens)
""",
    # A cache that is used by mistake when the same batch comes twice in a row.
    "repeatable": """
    previous = None

    def generate(self, prompts, decoding, on_tokens):
        rows = [list(row.token_ids) for row in super().generate(prompts, decoding, on_tokens)]
        if decoding.forced and prompts == self.previous:
            rows[0][-1] = 3 + rows[0][-1] % 7
            self.previous = None
        else:
            self.previous = prompts
        return [Completion(row) for row in rows]
""",
    # A shape that is prepared a second time inherits something from the first.
    "shape_can_change": """
    flipped = False

    def prepare(self, batch_size, max_prompt_tokens, max_new_tokens):
        super().prepare(batch_size, max_prompt_tokens, max_new_tokens)
        self.flipped = self.flipped != (batch_size == 1)

    def generate(self, prompts, decoding, on_tokens):
        rows = [list(row.token_ids) for row in super().generate(prompts, decoding, on_tokens)]
        if len(rows) == 1 and self.flipped:
            rows[0][-1] = 3 + rows[0][-1] % 7
        return [Completion(row) for row in rows]
""",
    # Rows sorted by length, as engines do, and never sorted back.
    "order_kept": """
    def generate(self, prompts, decoding, on_tokens):
        return super().generate(sorted(prompts, key=len, reverse=True), decoding, on_tokens)
""",
    # Shorter prompts are padded and the padding is not masked: every row but the longest is nonsense.
    "alone_and_in_batch": """
    def generate(self, prompts, decoding, on_tokens):
        width = max(len(prompt) for prompt in prompts)
        padded = [[0] * (width - len(prompt)) + list(prompt) for prompt in prompts]
        return super().generate(padded, decoding, on_tokens)
""",
    # The end of sequence is banned instead of met: the row goes on with something else.
    "eos_stop": """
    def generate(self, prompts, decoding, on_tokens):
        free = type(decoding)(decoding.max_new_tokens)
        rows = [row.token_ids for row in super().generate(prompts, free, on_tokens)]
        banned = decoding.eos_token_ids
        return [Completion([300 if token in banned else token for token in row]) for row in rows]
""",
    # The first token is told twice.
    "token_times": """
    def generate(self, prompts, decoding, on_tokens):
        on_tokens.step(range(len(prompts)))
        return super().generate(prompts, decoding, on_tokens)
""",
    # Two slots, of which nobody was told.
    "rows_run_together": """
    def generate(self, prompts, decoding, on_tokens):
        self._options = {**self._options, "rows_at_once": 2}
        return super().generate(prompts, decoding, on_tokens)
""",
    "facts": """
    def describe(self):
        return {"layers": 2}
""",
    # One value too many: the first token has no probability.
    "scores": """
    def score(self, token_ids):
        return [-1.0] * len(token_ids)
""",
    # 40 MB that no close gives back.
    "close_frees_memory": """
    def load(self, *arguments):
        super().load(*arguments)
        leaked = sys.modules.setdefault("leaked", [])
        leaked.append(bytearray(b"x") * 40_000_000)
""",
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_promise_fails_its_own_check_and_no_other(place: Place, tmp_path: Path, name: str) -> None:
    image = write_image(tmp_path / "image", f"class Twisted(NullAdapter):{BROKEN[name]}")
    try:
        checks = checked(place, image)
    finally:
        sys.modules.pop("leaked", None)
    assert outcomes(checks, "failed") == [name], {check.name: check.detail for check in checks.values()}
    assert checks[name].detail


def test_scores_above_nought_or_without_end_fail(place: Place, tmp_path: Path) -> None:
    for number, value in enumerate(("0.5", "float('nan')", "-float('inf')")):
        body = f"    def score(self, token_ids):\n        return [{value}] * (len(token_ids) - 1)\n"
        image = write_image(tmp_path / f"image{number}", f"class Twisted(NullAdapter):\n{body}")
        sys.modules.pop("adapter", None)
        assert outcomes(checked(place, image), "failed") == ["scores"]


def test_an_engine_that_does_not_work_after_a_refusal_fails_that_check(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The 23rd batch is the one after the refused ones; a fresh adapter begins to count again."""
    image = write_image(tmp_path / "image")
    calls: list[int] = []
    original = selfcheck.Bench.generate

    def counted(bench: selfcheck.Bench, *arguments: object, **options: object) -> object:
        found = original(bench, *arguments, **options)  # type: ignore[arg-type]  # handed on as they came
        calls.append(1)
        return found

    monkeypatch.setattr(selfcheck.Bench, "generate", counted)
    bodies = selfcheck.CHECKS[: NAMES.index("prompts_refused")]
    with monkeypatch.context() as patch:
        patch.setattr(selfcheck, "CHECKS", bodies)
        patch.setattr(sys.modules[__name__], "NAMES", [check.__name__ for check in bodies])
        checked(place, image)
    before = len(calls)
    failing = f"options: {{ttft_s: 0.0005, tpot_s: 0, fail_in: generate, fail_after_batches: {before}}}"
    manifest = image / "image.yaml"
    manifest.write_text(manifest.read_text().replace("options: {ttft_s: 0.0005, tpot_s: 0.0001}", failing))
    assert outcomes(checked(place, image), "failed") == ["prompts_refused"]


def test_a_guard_that_lets_bad_prompts_through_fails_that_check(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selfcheck, "check_prompts", lambda *_: None)
    checks = checked(place, write_image(tmp_path / "image"))
    assert outcomes(checks, "failed") == ["prompts_refused"]
    assert "was taken" in checks["prompts_refused"].detail


NEIGHBOURS = """class Twisted(NullAdapter):
    def generate(self, prompts, decoding, on_tokens):
        rows = [list(row.token_ids) for row in super().generate(prompts, decoding, on_tokens)]
        if len(rows) > 1 and len(rows[1]) == decoding.max_new_tokens:
            rows[1][-1] = 3 + rows[1][-1] % 7
        return [Completion(row) for row in rows]
"""


def test_a_row_that_depends_on_its_neighbours_is_recorded_with_where(place: Place, tmp_path: Path) -> None:
    checks = checked(place, write_image(tmp_path / "image", NEIGHBOURS))
    assert outcomes(checks, "failed") == []
    assert outcomes(checks, "recorded") == ["alone_and_in_batch"]
    assert checks["alone_and_in_batch"].detail == "differs: row 1 from token 15"


@pytest.mark.parametrize(
    "write",
    ["open(path, 'a')", "os.open(path, os.O_WRONLY | os.O_CREAT)", "__import__('pathlib').Path(path).touch()"],
)
def test_an_engine_that_writes_where_it_should_not_fails_that_check(place: Place, tmp_path: Path, write: str) -> None:
    """In a process of its own, since a watch on writes cannot be taken off. The folder is not there: none is left."""
    adapter = f"""
class Twisted(NullAdapter):
    def load(self, *arguments):
        super().load(*arguments)
        path = "/nowhere-at-all/cache"
        try:
            {write}
        except OSError:
            pass
"""
    ran = place.run("--self-check", image=write_image(tmp_path / "image", adapter))
    assert ran.code == 1
    failed = [line for line in ran.lines() if line["outcome"] != "passed"]
    assert [(line["name"], line["detail"]) for line in failed] == [
        ("writes_nothing", "CheckFailed: wrote to /nowhere-at-all/cache")
    ]
    assert "1 failed: writes_nothing" in ran.err


def test_temporary_files_and_pythons_own_cache_are_no_writes(place: Place, tmp_path: Path) -> None:
    adapter = """
import tempfile


class Twisted(NullAdapter):
    def load(self, *arguments):
        super().load(*arguments)
        with tempfile.TemporaryFile() as one, tempfile.NamedTemporaryFile() as two, open(os.devnull, "w") as three:
            pass
        try:
            os.open("/nowhere-at-all/__pycache__/x.pyc", os.O_WRONLY | os.O_CREAT)
        except OSError:
            pass
"""
    ran = place.run("--self-check", image=write_image(tmp_path / "image", adapter))
    assert ran.code == 0, ran.out


def test_no_model_is_held_beside_another(place: Place, tmp_path: Path) -> None:
    """A GPU that holds one copy must be enough for the suite."""
    adapter = """
class Twisted(NullAdapter):
    def load(self, *arguments):
        loaded = sys.modules.setdefault("loaded_adapters", [])
        if loaded:
            raise MemoryError("a second model beside the first")
        loaded.append(self)
        super().load(*arguments)

    def close(self):
        sys.modules["loaded_adapters"].remove(self)
        super().close()
"""
    try:
        assert outcomes(checked(place, write_image(tmp_path / "image", adapter)), "failed") == []
    finally:
        sys.modules.pop("loaded_adapters", None)


def known(check: str, more: str = "") -> str:
    return f"known_failures:\n  - {{check: {check}, reason: the engine does this by design{more}}}\n"


def test_a_declared_failure_is_recorded_with_its_reason(place: Place, tmp_path: Path) -> None:
    image = write_image(tmp_path / "image", f"class Twisted(NullAdapter):{BROKEN['order_kept']}", known("order_kept"))
    checks = checked(place, image)
    assert outcomes(checks, "failed") == []
    assert outcomes(checks, "recorded") == ["order_kept", "alone_and_in_batch"]
    assert "the engine does this by design" in checks["order_kept"].detail
    assert "another prompt's output" in checks["order_kept"].detail


def test_a_declared_failure_that_does_not_occur_is_a_failure(place: Place, tmp_path: Path) -> None:
    checks = checked(place, write_image(tmp_path / "image", manifest=known("order_kept")))
    assert outcomes(checks, "failed") == ["order_kept"]
    assert "remove it" in checks["order_kept"].detail


@pytest.mark.parametrize("broken", [True, False])
def test_a_failure_that_comes_and_goes_is_none_either_way(place: Place, tmp_path: Path, broken: bool) -> None:
    twisted = BROKEN["order_kept"] if broken else "\n    pass"
    declared = known("order_kept", ", sometimes: true")
    image = write_image(tmp_path / "image", f"class Twisted(NullAdapter):{twisted}", declared)
    checks = checked(place, image)
    assert outcomes(checks, "failed") == []
    assert checks["order_kept"].outcome == ("recorded" if broken else "passed")


@pytest.mark.parametrize("elsewhere", [", variants: [another]", ", devices: [cuda]"])
def test_a_failure_declared_for_elsewhere_excuses_nothing_here(place: Place, tmp_path: Path, elsewhere: str) -> None:
    twisted = f"class Twisted(NullAdapter):{BROKEN['facts']}"
    checks = checked(place, write_image(tmp_path / "image", twisted, known("facts", elsewhere)))
    assert outcomes(checks, "failed") == ["facts"]


def test_an_engine_that_dies_in_the_suite_has_not_passed_it(place: Place) -> None:
    ran = place.run("--self-check", "--option", "fail_in=prepare", "--option", "fail_how=exit")
    assert ran.code == 1
    (survives,) = ran.lines()
    assert (survives["name"], survives["outcome"]) == ("survives", "failed")


def test_a_suite_that_ends_quietly_half_way_has_not_been_passed(place: Place) -> None:
    """Every check so far has passed and the exit code is 0: only the end is missing."""
    halfway = ("--option", "fail_in=generate", "--option", "fail_how=exit", "--option", "fail_after_batches=7")
    ran = place.run("--self-check", *halfway, "--option", "ttft_s=0.001", "--option", "tpot_s=0.0001")
    assert ran.code == 1
    assert [line["outcome"] for line in ran.lines()] == ["passed", "passed", "failed"]


@pytest.mark.parametrize(
    ("slots", "batch_size", "outcome"),
    [pytest.param(7, 8, "failed", id="one too few"), pytest.param(8, 8, "passed", id="enough")],
)
def test_a_limit_of_slots_shows_at_the_batch_size_that_is_asked_for(
    place: Place, slots: int, batch_size: int, outcome: str
) -> None:
    pace = ("--option", "ttft_s=0.001", "--option", "tpot_s=0.0001")
    ran = place.run("--self-check", *pace, "--option", f"rows_at_once={slots}", "--batch-sizes", str(batch_size))
    found = {line["name"]: line for line in ran.lines()}["rows_run_together"]
    assert (found["outcome"], ran.code) == (outcome, int(outcome == "failed"))
    assert found["detail"] == ("CheckFailed: 1 of 8 rows began when others had ended" if outcome == "failed" else "")


def test_a_batch_without_memory_for_it_says_nothing_of_waves(place: Place) -> None:
    memory = ("--option", "budget_bytes=1000", "--option", "needs_bytes_per_row=200", "--batch-sizes", "8")
    ran = place.run("--self-check", "--option", "ttft_s=0.001", "--option", "tpot_s=0.0001", *memory)
    assert ran.code == 0, ran.err
    found = {line["name"]: line for line in ran.lines()}["rows_run_together"]
    assert found["outcome"] == "recorded"
    assert found["detail"].startswith("not known: no memory for 8 rows: ")
