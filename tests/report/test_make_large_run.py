"""The run that benchmarks are made on is one that every check passes, and follows from its seed."""

from __future__ import annotations

from pathlib import Path

from make_large_run import Noise, make_large_run

from bench_core.runs.load import load_run
from bench_core.verify.run import verify_run


def _content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_made_run_is_whole_and_follows_from_its_seed(tmp_path: Path) -> None:
    for home, seed in (("one", 1), ("same", 1), ("other", 2)):
        make_large_run(tmp_path / home / "run", 5, 6, seed, repeats=2)
    assert verify_run(tmp_path / "one" / "run", published=False).differences == ()
    assert _content(tmp_path / "one" / "run") == _content(tmp_path / "same" / "run")
    assert _content(tmp_path / "one" / "run") != _content(tmp_path / "other" / "run")


def test_what_is_planted_is_measured(tmp_path: Path) -> None:
    quiet = Noise(batches=1e-6, cells=0.0)
    make_large_run(tmp_path / "a", 8, 6, 1, noise=quiet)
    make_large_run(tmp_path / "b", 8, 6, 1, noise=Noise(batches=1e-6, cells=0.0, slower=0.25))
    one, other = (load_run(tmp_path / name).rows for name in "ab")
    assert len(one) == len(other) == 8
    for fast, slow in zip(one, other, strict=True):
        assert fast.rate is not None
        assert slow.rate is not None
        assert abs(fast.rate.throughput_tok_s / slow.rate.throughput_tok_s - 1.25) < 0.01
        assert len(fast.pace) == 6
