"""The material that the tests make is fit to test with: the same every time, and its every id is told apart."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from made_model import stories, story_model, story_tokenizer
from reference_llama import ReferenceLlama
from tokenizers import Tokenizer

NEW_TOKENS = 16


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> ReferenceLlama:
    return ReferenceLlama(story_model(tmp_path_factory.mktemp("model") / "story-llama"))


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    tokenizer = Tokenizer.from_str(story_tokenizer())
    return [tokenizer.encode(story).ids for story in stories(3)]


def test_the_tokenizer_is_the_same_in_every_process() -> None:
    code = "import made_model; print(made_model.story_tokenizer(), end='')"
    again = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "PYTHONHASHSEED": "7"},
    )  # fmt: skip
    assert again.stdout == story_tokenizer()


def test_what_the_model_writes_tells_a_right_engine_from_a_wrong_one(
    reference: ReferenceLlama, prompts: list[list[int]]
) -> None:
    """Outputs vary, nothing else is as good, and each depends on the whole of its prompt."""
    for prompt in prompts:
        output = reference.greedy(prompt, NEW_TOKENS)
        assert len(set(output)) > NEW_TOKENS // 2
        assert max(reference.behind(prompt, output)) == 0
        wrong = [*output[:-1], (output[-1] + 1) % 512]
        assert reference.behind(prompt, wrong)[-1] > 0.01
        assert max(reference.behind(prompt, wrong)[:-1]) == 0
        without_second = [prompt[0], *prompt[2:]]
        assert reference.greedy(without_second, NEW_TOKENS) != output


def test_the_reference_looks_at_no_later_token(reference: ReferenceLlama, prompts: list[list[int]]) -> None:
    whole, part = reference.logits(prompts[0]), reference.logits(prompts[0][:10])
    assert np.allclose(whole[:10], part)
    likely = reference.log_likelihoods(prompts[0])
    assert likely.shape == (len(prompts[0]) - 1,)
    assert (likely < 0).all()
