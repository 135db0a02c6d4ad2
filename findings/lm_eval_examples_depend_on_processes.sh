#!/usr/bin/env bash
# lm-evaluation-harness 0.4.13: which worked examples stand before a question depends on the number of GPUs. On two, all
# questions but one have other examples than on one; the task, the model and the seed are the same.
#
# With data parallelism (`accelerate launch`) each process has a model and every n-th question. Each draws the examples
# for its questions from a generator of its own, all seeded alike, one question after the other. So the k-th question of
# every process has the examples of one draw, whichever question it is. On one GPU 120 questions have 120 sets of
# examples; on eight they have 15, each used eight times, and the answers are less independent of each other than the
# standard error says.
#
# Whoever evaluates one model on one card and another on eight compares two sets of prompts, and a run made again on a
# larger machine does not repeat. A user reports differences well above the standard error (issue 1719, open since 2024).
# Tasks that take the first examples for all questions, as MMLU does, are not hit (by its source, not run here).
#
# Seen (120 questions with 5 of 200 examples each, as the harness's own processes build them; no model is needed):
#   processes   questions asked as by one process   sets of examples
#   1           120                                 120
#   2           1                                   60
#   4           1                                   30
#   8           1                                   15
# Fails if that changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q lm-eval==0.4.13
cd "$work"
export HF_HOME="$work/cache" HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1
cat > ranks.py <<'PY'
import importlib.metadata
import json
import logging
import random
import sys
from pathlib import Path

from lm_eval.tasks import TaskManager

QUESTIONS, EXAMPLES, PROCESSES = 120, 5, (1, 2, 4, 8)
logging.disable(logging.WARNING)

draw = random.Random(1)
for name, count in (("train", 200), ("test", QUESTIONS)):
    sums = ((draw.randint(1, 99), draw.randint(1, 99)) for _ in range(count))
    rows = (json.dumps({"question": f"{left} + {right} =", "answer": str(left + right)}) for left, right in sums)
    Path(f"{name}.jsonl").write_text("\n".join(rows) + "\n")
CONFIG = {
    "task": "sums", "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"train": "train.jsonl", "test": "test.jsonl"}},
    "training_split": "train", "fewshot_split": "train", "test_split": "test", "num_fewshot": EXAMPLES,
    "output_type": "loglikelihood", "doc_to_text": "{{question}}", "doc_to_target": "{{answer}}",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}


manager = TaskManager(include_defaults=False)


def prompts(processes):
    """What the models are asked, by question, where each of so many processes has a model of its own."""
    asked = {}
    for rank in range(processes):
        task = manager.load([CONFIG])["tasks"]["sums"]
        task.set_fewshot_seed(1234)  # as the harness does in each process, with its default
        task.build_all_requests(rank=rank, world_size=processes)
        for request in task.instances:
            asked[request.doc_id] = request.args[0]
    return asked


print("lm_eval", importlib.metadata.version("lm_eval"))
one = prompts(1)
found = {}
for processes in PROCESSES:
    asked = prompts(processes)
    same = sum(asked[number] == one[number] for number in one)
    examples = len({text.rsplit("\n", 1)[0] for text in asked.values()})
    found[processes] = same, examples
    print(f"processes {processes}: {len(asked)} questions, {same} with the examples of one process, {examples} sets of examples")
again = prompts(1) == one
expected = {processes: (QUESTIONS if processes == 1 else 1, QUESTIONS // processes) for processes in PROCESSES}
print("one process again asks the same:", again)
sys.exit(0 if again and found == expected else 1)
PY
"$work/venv/bin/python" ranks.py 2> errors.txt || { tail -n 20 errors.txt; exit 1; }
