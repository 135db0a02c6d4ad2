#!/usr/bin/env bash
# Datasets 5.2.0: `map` with a function of your own module does not see that the module has changed. After an edit that
# makes prompts of 16 words, the next run measures those of 8 words that the run before had made.
#
# What a map made is kept on disk under a fingerprint of the function, and taken from there when the fingerprint is the
# same. A function that the script itself defines is pickled with its code, so an edit changes its fingerprint. One that
# is imported is pickled as the name of its module and its own name, and so is the class of an object that is called:
# both stay what they were, whatever is edited. A lambda in the script that calls the same function does see the edit.
#
# So moving the function from the script into a module, with no other change, switches this off. Nothing is printed; the
# lengths are those of an earlier run, and a sweep over an edited constant compares a setting with itself. With
# `load_from_cache_file=False` all are made anew. A package of which another version is installed is imported alike.
#
# Seen (words of the prompts and whether the fingerprint stayed; one script, its module made with 8 words, then 16):
#                                        first run   again      edited
#   map(prompts.make)                    8           8, same    8, same
#   map(prompts.Maker())                 8           8, same    8, same
#   map(lambda row: prompts.make(row))   8           8, same    16, another
#   the function in the script           8           8, same    16, another
# Fails if that changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q datasets==5.2.0
cd "$work"
export HF_HOME="$work/cache" HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 PYTHONDONTWRITEBYTECODE=1
cat > study.py <<'PY'
import importlib.metadata
import json
import sys
from pathlib import Path

import datasets
import prompts

datasets.disable_progress_bars()
WORDS = prompts.WORDS


def own(row):
    return {"prompt": " ".join(row["text"].split()[:WORDS])}


WAYS = {
    "map(prompts.make)": prompts.make,
    "map(prompts.Maker())": prompts.Maker(),
    "map(lambda row: prompts.make(row))": lambda row: prompts.make(row),
    "the function in the script": own,
}
data = datasets.load_dataset("json", data_files="texts.jsonl", split="train")
print("datasets", importlib.metadata.version("datasets"), "module with", WORDS)
found, kept = [], Path("fingerprints.json")
before = json.loads(kept.read_text()) if kept.exists() else [None] * len(WAYS)
for (name, way), last in zip(WAYS.items(), before):
    made = data.map(way)
    (words,) = {len(row["prompt"].split()) for row in made}
    same = made._fingerprint == last
    print(f"  {name:36} {words:2} words, {'the same' if same else 'another'} fingerprint")
    found.append((words, made._fingerprint, same))
kept.write_text(json.dumps([fingerprint for _, fingerprint, _ in found]))
expected = {
    "first": [(8, False)] * 4, "again": [(8, True)] * 4, "edited": [(8, True)] * 2 + [(16, False)] * 2,
}[sys.argv[1]]
sys.exit(0 if [(words, same) for words, _, same in found] == expected else 1)
PY
python3 -c "
import json
for _ in range(10):
    print(json.dumps({'text': ' '.join(f'word{number}' for number in range(50))}))
" > texts.jsonl
module() {
    cat > prompts.py <<PY
WORDS = $1


def make(row):
    return {"prompt": " ".join(row["text"].split()[:WORDS])}


class Maker:
    def __call__(self, row):
        return make(row)
PY
}
module 8
"$work/venv/bin/python" study.py first
"$work/venv/bin/python" study.py again
module 16
"$work/venv/bin/python" study.py edited
