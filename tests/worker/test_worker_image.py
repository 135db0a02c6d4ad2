"""The image's own code is imported with the environment that image.yaml promises it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from bench_core.drive.plan.catalogue import REPOSITORY

MANIFEST = """\
name: reads-environment
title: Reads its environment
adapter: reads_environment:Adapter
batching: native
token_times: none
devices: [cpu]
packages: []
environment: {BENCH_TEST_VARIABLE: from image.yaml}
converts: {made: reads_environment:convert}
variants: {only: {artifact: none, default: true}}
"""
MODULE = """\
import os
AT_IMPORT = os.environ.get("BENCH_TEST_VARIABLE")
class Adapter:
    def load(self, artifact, variant, device): ...
    def prepare(self, batch_size, max_prompt_tokens, max_new_tokens): ...
    def generate(self, prompts, decoding, on_tokens): ...
    def close(self): ...
def convert(conversion): ...
"""
PROGRAM = """\
import json, sys
from pathlib import Path
from bench_core.contract.asked.manifest import Manifest
from bench_core.worker.engine import image
folder = Path(sys.argv[1])
manifest = Manifest.load(folder)
image.load_adapter(folder, manifest) if sys.argv[2] == "adapter" else image.load_converter(folder, manifest, "made")
import reads_environment
print(json.dumps(reads_environment.AT_IMPORT))
"""


def seen_at_import(folder: Path, what: str) -> object:
    image = folder / "reads-environment"
    image.mkdir()
    (image / "image.yaml").write_text(MANIFEST, encoding="utf-8")
    (image / "reads_environment.py").write_text(MODULE, encoding="utf-8")
    # A fresh interpreter, with a value of its own that must not win.
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(image), what],
        capture_output=True,
        text=True,
        check=True,
        cwd=REPOSITORY,
        env={"PATH": "/usr/bin:/bin", "BENCH_TEST_VARIABLE": "of the caller"},
    )
    return json.loads(done.stdout)


def test_an_adapter_sees_the_images_environment_when_it_is_imported(tmp_path: Path) -> None:
    assert seen_at_import(tmp_path, "adapter") == "from image.yaml"


def test_a_converter_sees_the_images_environment_when_it_is_imported(tmp_path: Path) -> None:
    assert seen_at_import(tmp_path, "converter") == "from image.yaml"
