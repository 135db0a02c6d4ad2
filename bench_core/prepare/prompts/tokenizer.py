"""Text to token ids, once, before anything is measured: the model's own tokenizer, or the built-in byte-level one."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from bench_core.contract.errors import BadInput, first_line
from bench_core.contract.records.digest import file_sha256

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"

PAD_ID, BOS_ID, EOS_ID = 0, 1, 2
SPECIALS = ("<pad>", "<s>", "</s>")
FIRST_BYTE_ID = len(SPECIALS)
BYTE_VOCAB_SIZE = FIRST_BYTE_ID + 256


class PromptTokenizer(Protocol):
    """What turns a prompt into token ids.

    Attributes:
        digest: names the tokenizer in a workload: sha256 of ``tokenizer.json``, or ``byte-level``.
        vocab_size: one more than the largest id that it can give.
        prefix_tokens: special tokens that it puts before every text (a BOS); kept when a prompt is truncated.
    """

    @property
    def digest(self) -> str: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def prefix_tokens(self) -> int: ...

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, with the special tokens that the tokenizer adds by itself."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens left out."""


class FileTokenizer:
    """A ``tokenizer.json`` as the ``tokenizers`` library reads it, without the truncation and padding set there."""

    def __init__(self, tokenizer: Tokenizer, digest: str) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self.digest = digest
        self.vocab_size = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        mask = tokenizer.encode("a").special_tokens_mask
        self.prefix_tokens = mask.index(0) if 0 in mask else 0

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, with special tokens as the post-processor of ``tokenizer.json`` says."""
        return list(self._tokenizer.encode(text).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens left out; ids outside the vocabulary give nothing."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))


def load_tokenizer(folder: Path) -> FileTokenizer:
    """The tokenizer of a model's folder.

    Raises:
        BadInput: no ``tokenizer.json`` there, or not one that the ``tokenizers`` library can read.
    """
    from tokenizers import Tokenizer  # noqa: PLC0415 - imported where needed: command lines must start quickly

    path = tokenizer_file(folder)
    try:
        tokenizer = Tokenizer.from_file(str(path))
        return FileTokenizer(tokenizer, file_sha256(path))
    except Exception as error:  # the library raises bare Exception for whatever it cannot read
        raise BadInput(
            f"{path}: not a tokenizer: {first_line(error)}", "save it again with a current transformers"
        ) from error


def tokenizer_file(folder: Path) -> Path:
    """The path of a folder's ``tokenizer.json``.

    Raises:
        BadInput: the folder or the file is missing; the hint says what to do with what is there instead.
    """
    path = folder / TOKENIZER_FILE
    if path.is_file():
        return path
    if not folder.is_dir():
        raise BadInput(f"{folder}: no such folder", "a tokenizer is given as the folder that holds its tokenizer.json")
    if (folder / "tokenizer.model").is_file():
        raise BadInput(
            f"{folder}: has a tokenizer.model but no {TOKENIZER_FILE}",
            "convert it: AutoTokenizer.from_pretrained(FOLDER, use_fast=True).save_pretrained(FOLDER)",
        )
    raise BadInput(
        f"{folder}: has no {TOKENIZER_FILE}",
        "give a folder with a tokenizer.json, or add --tokenizer FOLDER to take another model's",
    )


class ByteTokenizer:
    """The tokenizer of synthetic models: ids 0, 1, 2 are pad, BOS, EOS; byte ``b`` of UTF-8 is id ``b + 3``.

    Every text has ids, every id up to 258 has a meaning, nothing is downloaded, and the layout is that of the byte
    tokens of Llama-2. Ids from 259 up to the model's vocabulary are named ``<unused_ID>`` so that engines which want
    a name for every row of the embedding find one; no text encodes to them.
    """

    digest = "byte-level"
    prefix_tokens = 1

    def __init__(self, vocab_size: int = BYTE_VOCAB_SIZE) -> None:
        if vocab_size < BYTE_VOCAB_SIZE:
            raise ValueError(f"a byte-level vocabulary has at least {BYTE_VOCAB_SIZE} entries")
        self.vocab_size = vocab_size

    def encode(self, text: str) -> list[int]:
        """BOS and the bytes of a text; the names of the special tokens in a text mean those tokens."""
        ids = [BOS_ID]
        for piece in _SPECIAL.split(text):
            if piece in SPECIALS:
                ids.append(SPECIALS.index(piece))
            else:
                ids.extend(byte + FIRST_BYTE_ID for byte in piece.encode("utf-8"))
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; a run of bytes that is not UTF-8 gives one replacement character for each byte."""
        text: list[str] = []
        run = bytearray()
        for token_id in ids:
            if FIRST_BYTE_ID <= token_id < BYTE_VOCAB_SIZE:
                run.append(token_id - FIRST_BYTE_ID)
            elif BYTE_VOCAB_SIZE <= token_id < self.vocab_size:
                text += (_decode_run(run), f"<unused_{token_id}>")
                run = bytearray()
        return "".join((*text, _decode_run(run)))

    def files(self) -> dict[str, bytes]:
        """``tokenizer.json`` and ``tokenizer_config.json`` that encode and decode exactly as this does."""
        special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        bos = {"SpecialToken": {"id": SPECIALS[BOS_ID], "type_id": 0}}
        names = [
            *SPECIALS,
            *(f"<0x{byte:02X}>" for byte in range(256)),
            *(f"<unused_{index}>" for index in range(BYTE_VOCAB_SIZE, self.vocab_size)),
        ]
        tokenizer: dict[str, Any] = {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [{"id": index, "content": name, **special} for index, name in enumerate(SPECIALS)],
            "normalizer": None,
            "pre_tokenizer": None,
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [bos, {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [bos, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
                "special_tokens": {
                    SPECIALS[BOS_ID]: {"id": SPECIALS[BOS_ID], "ids": [BOS_ID], "tokens": [SPECIALS[BOS_ID]]}
                },
            },
            "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": False,
                "byte_fallback": True,
                "ignore_merges": False,
                "vocab": {name: index for index, name in enumerate(names)},
                "merges": [],
            },
        }
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "pad_token": SPECIALS[PAD_ID],
            "bos_token": SPECIALS[BOS_ID],
            "eos_token": SPECIALS[EOS_ID],
            "clean_up_tokenization_spaces": False,
        }
        return {
            TOKENIZER_FILE: json.dumps(tokenizer, ensure_ascii=True, indent=1).encode() + b"\n",
            TOKENIZER_CONFIG_FILE: json.dumps(config, indent=1).encode() + b"\n",
        }


_SPECIAL = re.compile("(" + "|".join(re.escape(name) for name in SPECIALS) + ")")


def _decode_run(run: bytearray) -> str:
    try:
        return run.decode("utf-8")
    except UnicodeDecodeError:
        return "\ufffd" * len(run)
