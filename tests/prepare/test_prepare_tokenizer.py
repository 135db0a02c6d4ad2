"""Text becomes the same ids for every engine: the byte tokenizer equals its file, real ones are read as they are."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_model import SPACE, stories, story_tokenizer
from prepare_material import STORIES
from tokenizers import Tokenizer

from bench_core.contract.errors import BadInput
from bench_core.prepare.prompts.tokenizer import (
    BYTE_VOCAB_SIZE,
    ByteTokenizer,
    FileTokenizer,
    load_tokenizer,
)

VOCAB = 272
BYTES = ByteTokenizer(VOCAB)
WRITTEN = FileTokenizer(Tokenizer.from_str(BYTES.files()["tokenizer.json"].decode()), "test")
PIECES = st.one_of(
    st.text(),
    st.sampled_from(["<s>", "</s>", "<pad>", "<0x41>", "<unused_260>", "<", "\r\n", "\u200d", "  "]),
)


@given(st.lists(PIECES).map("".join))
def test_the_written_tokenizer_json_encodes_exactly_as_the_byte_tokenizer(text: str) -> None:
    assert WRITTEN.encode(text) == BYTES.encode(text)


@given(st.lists(st.integers(0, VOCAB + 5)))
def test_the_written_tokenizer_json_decodes_any_ids_exactly_as_the_byte_tokenizer(ids: list[int]) -> None:
    assert WRITTEN.decode(ids) == BYTES.decode(ids)


@given(st.text().filter(lambda text: not any(name in text for name in ("<s>", "</s>", "<pad>"))))
def test_byte_tokens_give_back_the_text(text: str) -> None:
    ids = BYTES.encode(text)
    assert ids[0] == 1
    assert max(ids) < BYTE_VOCAB_SIZE
    assert BYTES.decode(ids) == text


def test_every_id_of_a_synthetic_vocabulary_has_a_name() -> None:
    """Converters refuse an embedding row without a token."""
    vocabulary = json.loads(BYTES.files()["tokenizer.json"])["model"]["vocab"]
    assert sorted(vocabulary.values()) == list(range(VOCAB))
    assert WRITTEN.vocab_size == BYTES.vocab_size == VOCAB
    assert WRITTEN.prefix_tokens == BYTES.prefix_tokens == 1


def test_a_vocabulary_too_small_for_bytes_is_a_programming_error() -> None:
    with pytest.raises(ValueError, match="259"):
        ByteTokenizer(256)


def _plain_bpe(content: dict[str, Any], text: str) -> list[int]:
    """Byte pair encoding from its definition: the earliest learnt merge first, what has no piece as bytes."""
    vocab, ranks = content["model"]["vocab"], {tuple(pair): n for n, pair in enumerate(content["model"]["merges"])}
    pieces: list[str] = []
    for character in SPACE + text.replace(" ", SPACE):
        known = character in vocab
        pieces += [character] if known else [f"<0x{byte:02X}>" for byte in character.encode()]
    while True:
        pairs = [(ranks[pair], index) for index, pair in enumerate(pairwise(pieces)) if pair in ranks]
        if not pairs:
            return [vocab["<s>"], *(vocab[piece] for piece in pieces)]
        _rank, index = min(pairs)
        pieces[index : index + 2] = [pieces[index] + pieces[index + 1]]


def test_a_tokenizer_of_the_build_of_llama_2s_gives_the_ids_of_its_merges(tmp_path: Path) -> None:
    """Ids are those that follow from vocabulary and merges of the file, its BOS first; texts come back whole."""
    content = json.loads(story_tokenizer())
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.vocab_size == 512
    assert tokenizer.prefix_tokens == 1
    learnt = content["model"]["vocab"]
    assert tokenizer.encode("the") == [1, learnt[f"{SPACE}the"]], "a word with its space is one piece"
    for text in (*STORIES, *stories(50), "caf\u00e9 \U0001f98a", "  two  spaces ", ""):
        assert tokenizer.encode(text) == (_plain_bpe(content, text) if text else [1])
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert max(len(story) / len(tokenizer.encode(story)) for story in STORIES) > 1.5, "words, not letters"


def test_truncation_and_padding_of_the_file_are_not_applied(tmp_path: Path) -> None:
    """A tokenizer.json saved by a training script may cut at 4 tokens or pad to 64: neither is the prompt."""
    content = json.loads(BYTES.files()["tokenizer.json"])
    content["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    content["padding"] = {
        "strategy": {"Fixed": 64},
        "direction": "Left",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "<pad>",
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    assert load_tokenizer(tmp_path).encode(STORIES[0]) == BYTES.encode(STORIES[0])


def test_the_digest_is_that_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(BYTES.files()["tokenizer.json"])
    first = load_tokenizer(tmp_path).digest
    (tmp_path / "tokenizer.json").write_bytes(ByteTokenizer(300).files()["tokenizer.json"])
    assert load_tokenizer(tmp_path).digest != first
    assert len(first) == 64


@pytest.mark.parametrize(
    ("files", "cause", "hint"),
    [
        ({}, "has no tokenizer.json", "--tokenizer"),
        ({"tokenizer.model": b"x"}, "tokenizer.model but no tokenizer.json", "save_pretrained"),
        ({"tokenizer.json": b"{"}, "not a tokenizer", "transformers"),
        ({"tokenizer.json": b'{"model": {"type": "Nope"}}'}, "not a tokenizer", "transformers"),
        ({"tokenizer.json": b"\xff\xfe"}, "not a tokenizer", "transformers"),
    ],
)
def test_a_folder_without_a_usable_tokenizer_says_what_to_do(
    tmp_path: Path, files: dict[str, bytes], cause: str, hint: str
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput) as caught:
        load_tokenizer(tmp_path)
    assert cause in caught.value.cause
    assert hint in caught.value.hint


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such folder"):
        load_tokenizer(tmp_path / "absent")
