"""Every file and folder that a run leaves or reads, named once.

Host side and container side use the same names: the folders are mounted at the three mount points below.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePath

# Mount points inside a container (docs/architecture.md, "A measuring container").
DATA_MOUNT = Path("/data")
MODELS_MOUNT = Path("/models")
RESULTS_MOUNT = Path("/results")
IMAGE_MOUNT = Path("/opt/bench/image")

# A run: results/<run_id>/
RUN_FILE = "run.json"
SUITE_FILE = "suite.json"  # what was asked for; a resumed run asks for the same where nothing else is said
WORKLOAD_FILE = "workload.json.gz"  # the prompts as token ids, so that every batch can be checked anywhere
SCHEDULES_FOLDER = "schedules"  # <word of the load>.json.gz: what is sent to a server and when; below data/ as well
DIGESTS_FILE = "SHA256SUMS"  # of a published run: all files but those that a report makes again
CELLS_FOLDER = "cells"
SET_ASIDE_FOLDER = "set-aside"  # cells that a later visit measured again, as they were
BESIDE_FILE = "beside.yaml"  # published figures that the report shows beside the run's own
DEVICE_RATES_FOLDER = "device-rates"  # what each device could do at each visit: v<visit>.<device>.json
FORMER_DEVICE_RATES_FOLDER = "calibrations"  # the same, in runs of before release 0.3
MIN_MEMORY_FOLDER = "min-memory"  # <cell>.json, and what its trials left in <cell>/trial-<n>/
MAX_BATCH_FOLDER = "max-batch"  # <image>.<variant>.json, and what its trials left in <image>.<variant>/trial-<n>/
CAPACITY_FOLDER = "capacity"  # <image>.<variant>.json, and what its trials left in <image>.<variant>/trial-<n>/
REPORT_FILE = "report.md"
PAGE_FILE = "report.html"
TABLE_FILE = "table.csv"  # of cells of closed batches
SERVING_TABLE_FILE = "serving.csv"  # of cells under load
FIGURES_FOLDER = "figures"

# A cell: results/<run_id>/cells/<image>.<variant>.<word of its scenario, as b16>[.<gpus>gpu][.r<repeat>]/
SPEC_FILE = "spec.json"
EVENTS_FILE = "events.jsonl"
COMPRESSED_EVENTS_FILE = "events.jsonl.gz"  # of published runs
RESULT_FILE = "result.json"
OUTCOME_FILE = "outcome.json"
LOG_FILE = "worker.log"
CELL_FILES = (SPEC_FILE, EVENTS_FILE, RESULT_FILE, OUTCOME_FILE, LOG_FILE)

# A model: models/<model folder>/{model.json, hf/, <artifact>/...}; each artifact folder holds ARTIFACT_FILE.
MODEL_FILE = "model.json"
ARTIFACT_FILE = "artifact.json"
HF_ARTIFACT = "hf"
NO_ARTIFACT = "none"

# data/
WORKLOADS_FOLDER = "workloads"
PREPARED_FILE = "prepared.json"
ASSIGNMENT = "assignment"  # .<driver>.<number>.json: what a driver has handed to a box, as long as that lives

# An image: images/<name>/
MANIFEST_FILE = "image.yaml"

NAME_PATTERN = r"^[a-z0-9](?:[a-z0-9_.-]{0,62}[a-z0-9])?$"
_NAME = re.compile(NAME_PATTERN)


def is_name(text: str) -> bool:
    """Whether the text can stand as one component of a path on every system: lower case, no separator, at most 64."""
    return bool(_NAME.fullmatch(text)) and ".." not in text


def is_hidden(relative: PurePath) -> bool:
    """Whether a part of the path begins with a dot: what tools leave, and what is being written or removed."""
    return any(part.startswith(".") for part in relative.parts)


def slug(text: str) -> str:
    """A readable path component made of any text: lower case letters, digits, ``.``, ``_`` and ``-``, at most 48."""
    plain = re.sub(r"[^a-z0-9._]+", "-", text.lower().replace("/", "--"))
    plain = re.sub(r"\.{2,}", ".", plain).strip("-._")
    return plain[:48].strip("-._") or "unnamed"


def cell_id(image: str, variant: str, word: str, repeat: int = 1, gpus: int = 1) -> str:
    """``<image>.<variant>.<word of its scenario>``: the name of a cell and of its folder. Behind it ``.<gpus>gpu``
    where the model is split over several, and ``.r<repeat>`` from the second measurement on. The word of an offline
    cell is ``b<batch size>``."""
    name = f"{image}.{variant}.{word}{split_suffix(gpus)}"
    return name if repeat == 1 else f"{name}.r{repeat}"


def split_suffix(gpus: int) -> str:
    """What a cell's name tells of the GPUs that its model is split over: ``.2gpu``; nothing for one."""
    return f".{gpus}gpu" if gpus > 1 else ""


def cell_folder(run_folder: Path, cell: str) -> Path:
    """The folder of a cell in a run folder."""
    return run_folder / CELLS_FOLDER / cell


def trial_folder(number: int) -> str:
    """The folder of a search's trial: ``trial-<number>``."""
    return f"trial-{number:02d}"


def numbered(name: str, number: int) -> str:
    """``name`` for the first of its kind, ``name.<number>`` for the others."""
    return name if number == 1 else f"{name}.{number}"
