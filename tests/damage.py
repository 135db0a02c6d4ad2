"""Damaged and incomplete checkpoints, made from a whole one: each change is what a broken download, a wrong copy or a
script that saved too little leaves behind."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench_core.prepare.models.shapes import Shape
from bench_core.prepare.models.synthetic import write_synthetic
from bench_core.prepare.models.weights import INDEX_FILE, SINGLE_FILE

# Three layers, so that a layer has others beside it, and heads as wide as every engine's kernels want them: else a
# damaged checkpoint would be refused for its shape.
WHOLE = Shape(272, 64, 128, 3, 2, 1, 128, "float32")
Header = dict[str, dict[str, Any]]
_SHARD_BYTES = 200_000


def whole_model(folder: Path) -> Path:
    """The checkpoint before any damage, in one file."""
    folder.mkdir()
    write_synthetic(WHOLE, 0, folder)
    return folder


def sharded_model(folder: Path) -> Path:
    """The same in several files with an index."""
    folder.mkdir()
    write_synthetic(WHOLE, 0, folder, shard_bytes=_SHARD_BYTES)
    return folder


def rewrite(path: Path, change: Callable[[dict[str, tuple[list[int], bytes]]], None]) -> None:
    """Changes the tensors of a safetensors file: name to (shape, bytes). New ones are of float32."""
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header: Header = json.loads(content[8 : 8 + length])
    data = content[8 + length :]
    metadata = header.pop("__metadata__", {"format": "pt"})
    tensors = {
        name: (list(entry["shape"]), data[entry["data_offsets"][0] : entry["data_offsets"][1]])
        for name, entry in header.items()
    }
    change(tensors)
    entries: dict[str, Any] = {"__metadata__": metadata}
    body = b""
    for name, (shape, values) in tensors.items():
        end = len(body) + len(values)
        dtype = header[name]["dtype"] if name in header else "F32"
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(body), end]}
        body += values
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def without(*endings: str) -> Callable[[Path], None]:
    """Takes tensors out of the file by the ends of their names."""

    def damage(folder: Path) -> None:
        def change(tensors: dict[str, tuple[list[int], bytes]]) -> None:
            gone = [name for name in tensors if name.endswith(endings)]
            assert gone, endings
            for name in gone:
                del tensors[name]

        rewrite(folder / SINGLE_FILE, change)

    return damage


def _without_layer(index: int) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        def change(tensors: dict[str, tuple[list[int], bytes]]) -> None:
            for name in [name for name in tensors if name.startswith(f"model.layers.{index}.")]:
                del tensors[name]

        rewrite(folder / SINGLE_FILE, change)

    return damage


def _renamed(new_name: Callable[[str], str]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        def change(tensors: dict[str, tuple[list[int], bytes]]) -> None:
            renamed = {new_name(name): value for name, value in tensors.items()}
            tensors.clear()
            tensors.update(renamed)

        rewrite(folder / SINGLE_FILE, change)

    return damage


def _config(**changes: Any) -> Callable[[Path], None]:
    """Sets keys of ``config.json``; ``None`` deletes one."""

    def damage(folder: Path) -> None:
        path = folder / "config.json"
        content = {**json.loads(path.read_text()), **changes}
        path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))

    return damage


def _no_head_unsaid(folder: Path) -> None:
    without("lm_head.weight")(folder)
    _config(tie_word_embeddings=None)(folder)


def _rows(name: str, rows: int) -> Callable[[Path], None]:
    """Cuts a table after its first rows, or fills it up."""

    def damage(folder: Path) -> None:
        def change(tensors: dict[str, tuple[list[int], bytes]]) -> None:
            (_, columns), values = tensors[name]
            size = rows * columns * 4
            tensors[name] = ([rows, columns], values[:size] + b"\0" * (size - len(values)))

        rewrite(folder / SINGLE_FILE, change)

    return damage


def _emptied(folder: Path) -> None:
    def change(tensors: dict[str, tuple[list[int], bytes]]) -> None:
        for name in tensors:
            tensors[name] = ([0], b"")

    rewrite(folder / SINGLE_FILE, change)


def _adapter(folder: Path, *, config: bool) -> None:
    """What peft saves: its own configuration, two small matrices for each layer, the tokenizer."""

    def change(tensors: dict[str, tuple[list[int], bytes]]) -> None:
        tensors.clear()
        for layer in range(WHOLE.layers):
            stem = f"base_model.model.model.layers.{layer}.self_attn.q_proj.lora_"
            tensors[f"{stem}A.weight"] = ([2, 16], b"\0" * 128)
            tensors[f"{stem}B.weight"] = ([16, 2], b"\0" * 128)

    rewrite(folder / SINGLE_FILE, change)
    (folder / SINGLE_FILE).rename(folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2}))
    if not config:
        (folder / "config.json").unlink()


def _merged_by_hand(folder: Path) -> None:
    """An adapter's matrices beside the base model's weights, in one file."""

    def change(tensors: dict[str, tuple[list[int], bytes]]) -> None:
        tensors["model.layers.0.self_attn.q_proj.lora_A.weight"] = ([2, 16], b"\0" * 128)

    rewrite(folder / SINGLE_FILE, change)


def _truncated(folder: Path) -> None:
    path = folder / SINGLE_FILE
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _header_alone(folder: Path) -> None:
    path = folder / SINGLE_FILE
    length = struct.unpack("<Q", path.read_bytes()[:8])[0]
    path.write_bytes(path.read_bytes()[: 8 + length])


def _shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("model-*.safetensors"))


def _lost_shard(folder: Path) -> None:
    _shards(folder)[1].unlink()


def _one_shard_alone(folder: Path) -> None:
    for path in _shards(folder)[1:]:
        path.unlink()
    (folder / INDEX_FILE).unlink()


def _lost_index(folder: Path) -> None:
    (folder / INDEX_FILE).unlink()


def _index_of_fewer(folder: Path) -> None:
    """An index written over while the last shard was not yet there."""
    last = _shards(folder)[-1]
    last.unlink()
    path = folder / INDEX_FILE
    content = json.loads(path.read_text())
    content["weight_map"] = {tensor: file for tensor, file in content["weight_map"].items() if file != last.name}
    path.write_text(json.dumps(content))


def _index_names_a_tensor_more(folder: Path) -> None:
    path = folder / INDEX_FILE
    content = json.loads(path.read_text())
    content["weight_map"]["model.layers.2.mlp.more.weight"] = _shards(folder)[0].name
    path.write_text(json.dumps(content))


@dataclass(frozen=True)
class Damage:
    """One way in which a checkpoint is broken.

    Attributes:
        apply: does it to a whole checkpoint's folder.
        sign: stands in the refusal, or in the engine's failure where the headers do not show it.
        sharded: the whole checkpoint is in several files.
        shows: whether the headers show it; else an engine that loads it must tell.
    """

    name: str
    apply: Callable[[Path], None]
    sign: str
    sharded: bool = False
    shows: bool = True


DAMAGES = (
    Damage("no_head", without("lm_head.weight"), "lm_head.weight is missing"),
    Damage("no_head_unsaid", _no_head_unsaid, "lm_head.weight is missing"),
    Damage("no_embeddings", without("embed_tokens.weight"), "input embeddings is missing"),
    Damage("no_last_norm", without("model.norm.weight"), "model.norm.weight is missing"),
    Damage("a_lost_matrix", without("layers.1.mlp.down_proj.weight"), "layers.1.mlp.down_proj.weight is missing"),
    Damage("a_lost_norm", without("layers.0.input_layernorm.weight"), "layers.0.input_layernorm.weight is missing"),
    Damage(
        "a_lost_attention",
        without(*(f"layers.2.self_attn.{x}_proj.weight" for x in "qkvo")),
        "layers.2.self_attn.k_proj.weight is missing",
    ),
    Damage("a_lost_layer", _without_layer(1), "all of layer 1"),
    Damage("fewer_layers", _config(num_hidden_layers=4), "3 layers are stored, config.json names 4"),
    Damage("more_layers", _config(num_hidden_layers=2), "3 layers are stored"),
    Damage("fewer_rows", _rows("model.embed_tokens.weight", 200), "has 200 rows, config.json says vocab_size 272"),
    Damage("more_rows", _rows("model.embed_tokens.weight", 300), "has 300 rows, config.json says vocab_size 272"),
    Damage("a_shorter_head", _rows("lm_head.weight", 200), "lm_head.weight has 200 rows"),
    Damage("only_an_adapter", lambda folder: _adapter(folder, config=False), "an adapter (LoRA)"),
    Damage("an_adapter_with_configuration", lambda folder: _adapter(folder, config=True), "an adapter (LoRA)"),
    Damage("an_adapter_beside", _merged_by_hand, "lora_A.weight is of an adapter"),
    Damage("compiled_names", _renamed(lambda name: f"_orig_mod.{name}"), "wrapped model"),
    Damage("parallel_names", _renamed(lambda name: f"module.{name}"), "wrapped model"),
    Damage("empty_tensors", _emptied, "is empty"),
    Damage("truncated", _truncated, "bytes instead of"),
    Damage("header_alone", _header_alone, "bytes instead of"),
    Damage("a_lost_shard", _lost_shard, "is missing", sharded=True),
    Damage("one_shard_alone", _one_shard_alone, "-00002-of-", sharded=True),
    Damage("a_lost_index", _lost_index, "safetensors files but no", sharded=True),
    Damage("an_index_of_fewer", _index_of_fewer, "is missing", sharded=True),
    Damage("an_index_of_more", _index_names_a_tensor_more, "model.layers.2.mlp.more.weight", sharded=True),
    # What every layer lacks is no difference between layers: only who builds the model knows that it belongs there.
    Damage("a_kind_of_matrix_lost", without("mlp.up_proj.weight"), "model.layers.0.mlp.up_proj.weight", shows=False),
    Damage("other_names", _renamed(lambda name: name.replace("_proj", "_projection")), "_proj.weight", shows=False),
    Damage("narrower_layers", _config(intermediate_size=160), "mlp.down_proj.weight", shows=False),
    Damage("other_heads", _config(num_key_value_heads=2), "self_attn.k_proj.weight", shows=False),
)
