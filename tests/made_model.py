"""A small Llama, its tokenizer and stories, made by the tests: a clone alone has everything that it is tested with.

The model has the shape and the habits of a real one that people use for trying things out: tied embeddings, grouped
key-value heads, narrow rows, two end-of-sequence ids, and a tokenizer of Llama-2's build (a space is part of the word
behind it, what has no piece of its own becomes bytes). Its weights are random: what it writes is no English, and
every id of it is determined, see reference_llama.py.
"""

from __future__ import annotations

import json
import random
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from bench_core.prepare.models.shapes import Shape
from bench_core.prepare.models.synthetic import write_synthetic
from bench_core.prepare.prompts.embedded import embedded_lines

# The standard deviation is so large that the layers decide what is written; with a small one a tied head repeats the
# last token for ever, and an engine that loses its cache would look right.
STORY_SHAPE = Shape(512, 64, 172, 5, 8, 4, 512, "float32", tied_embeddings=True, std=0.2)
STORY_EOS = (1, 2)
SPACE = "\u2581"
SPECIALS = ("<unk>", "<s>", "</s>")
PIECES = (*SPECIALS, *(f"<0x{byte:02X}>" for byte in range(256)))


def _texts() -> list[str]:
    return [json.loads(line)["text"] for line in embedded_lines()]


def stories(count: int, seed: int = 0) -> list[str]:
    """Texts of many lengths, most of some hundred characters, all different: sentences of the suite's own prompts."""
    source = random.Random(seed)  # noqa: S311 - not a secret
    sentences = _texts()
    made: dict[str, None] = {}  # in order, and unique within a workload, as the suite wants prompts
    while len(made) < count:
        made[" ".join(source.sample(sentences, source.choice((1, 2, 2, 3, 3, 4, 8))))] = None
    return list(made)


def write_stories(path: Path, count: int, *, longest_first: bool = False) -> Path:
    """Stories as people have them: one JSON object with ``text`` a line."""
    texts = stories(count)
    if longest_first:
        tokenizer = Tokenizer.from_str(story_tokenizer())
        texts.sort(key=lambda text: -len(tokenizer.encode(text).ids))
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


@cache
def story_tokenizer(vocab_size: int = STORY_SHAPE.vocab_size) -> str:
    """A ``tokenizer.json`` of the build of Llama-2's, trained on the suite's own prompts."""
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    trained.pre_tokenizer = pre_tokenizers.Split(SPACE, "merged_with_next")  # no piece spans two words
    trainer = trainers.BpeTrainer(vocab_size=vocab_size - len(PIECES), show_progress=False)
    trained.train_from_iterator(_texts(), trainer)
    learnt = json.loads(trained.to_str())["model"]
    names = [*PIECES, *sorted(learnt["vocab"], key=lambda piece: int(learnt["vocab"][piece]))]
    assert len(names) == len(set(names)) == vocab_size
    return json.dumps(_llama_file({name: index for index, name in enumerate(names)}, learnt["merges"]))


def _llama_file(vocab: dict[str, int], merges: list[Any]) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    bos = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": index, "content": name, **flags} for index, name in enumerate(SPECIALS)],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": SPACE},
                {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [bos, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [bos, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": merges,
        },
    }


def story_model(folder: Path, *, shape: Shape = STORY_SHAPE, seed: int = 0) -> Path:
    """A model's folder as a hub gives it; ``folder`` must not exist."""
    folder.mkdir(parents=True)
    write_synthetic(shape, seed, folder)
    (folder / "tokenizer.json").write_text(story_tokenizer(), encoding="utf-8")
    config: dict[str, Any] = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    config |= {"pad_token": "<unk>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    path = folder / "generation_config.json"
    generation = {**json.loads(path.read_text(encoding="utf-8")), "eos_token_id": list(STORY_EOS)}
    path.write_text(json.dumps(generation), encoding="utf-8")
    return folder
