"""The model that is made from a package is a real one: whoever computes it in the plainest way reads English."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from reference_llama import ReferenceLlama
from smollm2 import WEIGHTS_FILE, WrongModel, smollm2
from tokenizers import Tokenizer


@pytest.mark.parametrize(
    ("text", "goes_on"), [("The capital of France is", " Paris"), ("One, two, three, four, five, six,", " seven")]
)
def test_it_knows_what_children_know(text: str, goes_on: str) -> None:
    """Queries and keys, heads and angles, digits and spaces: one that is wrong, and it says something else."""
    folder = smollm2()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = tokenizer.encode(text).ids
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode([*ReferenceLlama(folder).greedy(ids, 1)]) == goes_on


def test_a_tokenizer_of_its_own_kind() -> None:
    """Each digit is a token, every byte has one, and turns of a conversation have theirs."""
    tokenizer = Tokenizer.from_file(str(smollm2() / "tokenizer.json"))
    assert tokenizer.encode("2026").tokens == ["2", "0", "2", "6"]
    text = "<|im_start|>user\nZoë's naïve 日本 🎉<|im_end|>\n"
    ids = tokenizer.encode(text).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    assert (ids[0], ids[-2]) == (tokenizer.token_to_id("<|im_start|>"), tokenizer.token_to_id("<|im_end|>")) == (1, 2)


def test_other_weights_in_its_place_are_refused(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(smollm2(), tmp_path / "copy"))
    assert smollm2(folder) == folder
    with (folder / WEIGHTS_FILE).open("r+b") as stream:
        stream.seek(-1, 2)
        last = stream.read(1)
        stream.seek(-1, 2)
        stream.write(bytes([last[0] ^ 1]))
    with pytest.raises(WrongModel, match="remove it"):
        smollm2(folder)
