"""What ``bench_core.drive.images`` lists."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

from rich.console import Console

from bench_core.drive.images import shown
from bench_core.drive.plan.catalogue import Catalogue


def listed(table: object) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


def test_every_variant_is_listed_and_what_is_built() -> None:
    catalogue = Catalogue()
    text = listed(shown(catalogue, lambda image, device: image.name == "null" and device == "cpu"))
    for name in catalogue.names:
        for variant in catalogue.get(name).manifest.variants:
            assert f" {variant} " in text, f"{name}.{variant}"
    (row,) = (line for line in text.splitlines() if " scripted * " in line)
    assert [cell.strip() for cell in row.strip("│").split("│")][3:5] == ["GPU, CPU", "CPU"]
    (other,) = (line for line in text.splitlines() if " exl2-4.0bpw " in line)
    assert other.count("GPU") == 1


def test_without_an_engine_it_lists_all_the_same_and_says_why_not_more(tmp_path: Path) -> None:
    environment = {**os.environ, "DOCKER_HOST": f"unix://{tmp_path}/nobody.sock"}
    command = [sys.executable, "-m", "bench_core.drive.images"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert "what is built cannot be told: no Docker daemon answers" in done.stdout
    assert "transformers" in done.stdout
