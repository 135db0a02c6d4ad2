"""A model's folder under models/ is whole, says where it came from, and holds nothing that was not asked for."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from made_model import STORY_EOS, STORY_SHAPE, story_model
from prepare_material import TOY, edit_json, safetensors_bytes, toy_model, tree

from bench_core.contract.errors import BadInput
from bench_core.contract.models.model import ModelInfo
from bench_core.contract.records.artifact import ArtifactRecord, usable_artifact
from bench_core.drive.launch.box import require_readable
from bench_core.prepare.models import model as model_module
from bench_core.prepare.models import shapes, synthetic
from bench_core.prepare.models.hf_config import check_config, dimensions, portable_config, portable_tokenizer_config
from bench_core.prepare.models.model import ModelRequest, plan_model, prepare_model
from bench_core.prepare.prompts.tokenizer import ByteTokenizer, load_tokenizer


def prepare(name: Path | str, models: Path, **options: Any) -> ModelInfo:
    return prepare_model(ModelRequest(name=str(name), **options), models)


def refused(name: Path | str, models: Path, **options: Any) -> BadInput:
    """The refusal of a model: planning says the same as preparing, and nothing is written."""
    request = ModelRequest(name=str(name), **options)
    with pytest.raises(BadInput) as caught:
        prepare_model(request, models)
    with pytest.raises(BadInput) as planned:
        plan_model(request, models)
    assert str(planned.value) == str(caught.value)
    assert not models.exists()
    assert caught.value.hint
    return caught.value


def record_of(models: Path, info: ModelInfo) -> ArtifactRecord:
    return ArtifactRecord.read(models / info.folder / "hf" / "artifact.json")


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    return toy_model(tmp_path / "Toy Model")


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "models"


# --- what is made ---


def test_a_local_folder_is_linked_with_its_facts(toy: Path, models: Path) -> None:
    assert plan_model(ModelRequest(name=str(toy)), models).action == "link"
    assert not models.exists()
    info = prepare(toy, models)
    record = record_of(models, info)
    assert info.folder == f"toy-model-{record.digest[:12]}"
    assert info.digest == record.digest == record.source_digest
    assert ModelInfo.read(models / info.folder / "model.json") == info
    assert usable_artifact(models / info.folder / "hf", info.digest, None) == record
    linked = models / info.folder / "hf" / "model.safetensors"
    assert linked.stat().st_ino == (toy / "model.safetensors").stat().st_ino
    assert info.model_dump() == {
        **info.model_dump(),
        "name": "Toy Model",
        "synthetic": False,
        "architecture": "LlamaForCausalLM",
        "dtype": "float32",
        "parameters": TOY.parameters,
        "vocab_size": 272,
        "context_length": 128,
        "hidden_size": 16,
        "intermediate_size": 32,
        "layers": 1,
        "attention_heads": 2,
        "kv_heads": 1,
        "head_dim": 8,
        "tied_embeddings": False,
        "bos_token_id": 1,
        "eos_token_ids": (2,),
        "pad_token_id": 0,
    }


def test_a_model_of_a_hub_is_described_right(models: Path, tmp_path: Path) -> None:
    """The shape of stories260K, whose published count of parameters is 260,032: heads share keys and values, the
    embedding is the head too, and two ids end a story."""
    info = prepare(story_model(tmp_path / "stories"), models)
    assert (info.parameters, info.layers, info.attention_heads, info.kv_heads) == (260_032, 5, 8, 4)
    assert (info.head_dim, info.context_length, info.tied_embeddings) == (8, STORY_SHAPE.context_length, True)
    assert info.eos_token_ids == STORY_EOS


def test_only_what_is_needed_is_taken(toy: Path, models: Path) -> None:
    for name in ("README.md", "train.py", "pytorch_model.bin", ".secret", "optimizer.pt"):
        (toy / name).write_text("x")
    (toy / "sub").mkdir()
    (toy / "sub" / "config.json").write_text("{}")
    info = prepare(toy, models)
    assert {path.name for path in (models / info.folder / "hf").iterdir()} == {
        "artifact.json",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }


def test_where_links_are_refused_files_are_copied(toy: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = prepare(toy, models / "linked").digest

    def refuse(*_arguments: object, **_options: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    info = prepare(toy, models / "copied")
    assert info.digest == wanted
    assert int(record_of(models / "copied", info).facts["copied_files"]) == 5
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=1000))
    with pytest.raises(BadInput, match="not enough disk for a copy of the model"):
        prepare(toy, models / "full")
    assert not tree(models / "full")


def test_root_copies_what_only_its_owner_may_read(toy: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root's containers run as another user. A link would have them refused, and a chmod would open the original."""
    weights = toy / "model.safetensors"
    weights.chmod(0o600)
    monkeypatch.setattr(os, "getuid", lambda: 0)
    plan = plan_model(ModelRequest(name=str(toy)), models)
    assert plan.bytes_expected == weights.stat().st_size
    info = prepare(toy, models)
    taken = models / info.folder / "hf" / "model.safetensors"
    assert taken.stat().st_ino != weights.stat().st_ino
    assert taken.stat().st_mode & 0o004
    assert weights.stat().st_mode & 0o777 == 0o600
    assert (models / info.folder / "hf" / "tokenizer.json").stat().st_ino == (toy / "tokenizer.json").stat().st_ino
    require_readable(models / info.folder)


def test_a_user_links_what_only_they_may_read(toy: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (toy / "model.safetensors").chmod(0o600)
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    info = prepare(toy, models)
    linked = models / info.folder / "hf" / "model.safetensors"
    assert linked.stat().st_ino == (toy / "model.safetensors").stat().st_ino


def test_the_persons_own_files_stay_as_they_are(toy: Path, models: Path) -> None:
    edit_json(toy / "config.json", torch_dtype=None)
    before = tree(toy)
    info = prepare(toy, models)
    assert tree(toy) == before
    written = json.loads((models / info.folder / "hf" / "config.json").read_text())
    assert written["torch_dtype"] == written["dtype"] == "float32"
    assert record_of(models, info).facts["rewritten"] == "config.json"


def test_synthetic_models_are_generated_the_same_everywhere(tmp_path: Path) -> None:
    request = ModelRequest(name="synthetic/tiny")
    plan = plan_model(request, tmp_path / "a")
    assert (plan.action, plan.bytes_expected) == ("generate", shapes.SHAPES["tiny"].weight_bytes)
    first, second = prepare_model(request, tmp_path / "a"), prepare_model(request, tmp_path / "b")
    assert first == second
    assert first.synthetic
    assert first.parameters == shapes.SHAPES["tiny"].parameters
    assert prepare_model(ModelRequest(name="synthetic/tiny", seed=1), tmp_path / "a").digest != first.digest
    tokenizer = load_tokenizer(tmp_path / "a" / first.folder / "hf")
    assert tokenizer.encode("abc") == ByteTokenizer().encode("abc")
    assert tokenizer.vocab_size == first.vocab_size


def test_another_tokenizer_replaces_the_models(toy: Path, models: Path, tmp_path: Path) -> None:
    (toy / "special_tokens_map.json").write_text("{}")
    other = tmp_path / "other"
    other.mkdir()
    (other / "tokenizer.json").write_bytes(ByteTokenizer(260).files()["tokenizer.json"])
    for name in (str(toy), "synthetic/tiny"):
        info = prepare(name, models, tokenizer=other)
        hf = models / info.folder / "hf"
        assert load_tokenizer(hf).vocab_size == 260
        assert not (hf / "tokenizer_config.json").exists()
        assert not (hf / "special_tokens_map.json").exists()
        assert info.digest != prepare(name, models).digest


def test_a_tokenizer_of_a_larger_vocabulary_is_refused(toy: Path, models: Path, tmp_path: Path) -> None:
    llama = tmp_path / "llama"
    llama.mkdir()
    (llama / "tokenizer.json").write_bytes(ByteTokenizer(32_000).files()["tokenizer.json"])
    for name in (str(toy), "synthetic/tiny"):
        assert "32000 token ids, but the model's vocabulary has" in refused(name, models, tokenizer=llama).cause


@pytest.mark.parametrize("number", ["2147483648", "9" * 30, "1e308", "NaN", "Infinity", "-1", "9" * 5000])
@pytest.mark.parametrize("key", ["hidden_size", "num_hidden_layers", "vocab_size", "max_position_embeddings"])
def test_a_size_that_no_model_has_is_refused(key: str, number: str, toy: Path, models: Path) -> None:
    path = toy / "config.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, key: "HERE"}).replace('"HERE"', number))
    cause = refused(toy, models).cause
    assert "config.json" in cause
    assert key in cause or "not JSON" in cause


def test_numbers_of_keys_that_nobody_reads_may_be_any(toy: Path, models: Path) -> None:
    """Tokenizers' configurations hold 1e30 as a whole number, and some models' an infinity."""
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        path = toy / name
        content = json.loads(path.read_text())
        path.write_text(json.dumps({**content, "model_max_length": int(1e30), "time_step_limit": [0.0, float("inf")]}))
    edit_json(toy / "generation_config.json", eos_token_id=[2, 2**70])
    assert prepare(toy, models).eos_token_ids == (2,)


# --- the configuration's many forms ---


@pytest.mark.parametrize(
    ("changes", "generation", "expected"),
    [
        ({"num_key_value_heads": None}, {}, {"kv_heads": 2}),
        ({"head_dim": None}, {}, {"head_dim": 8}),
        ({"intermediate_size": None, "n_inner": 48}, {}, {"intermediate_size": 48}),
        ({"max_position_embeddings": None, "n_positions": 77}, {}, {"context_length": 77}),
        ({}, {"eos_token_id": [2, 5, 2]}, {"eos_token_ids": (2, 5)}),
        ({"eos_token_id": 7}, {"eos_token_id": None}, {"eos_token_ids": (7,)}),
        ({"eos_token_id": None}, {"eos_token_id": None}, {"eos_token_ids": ()}),
        ({"pad_token_id": -1}, {"pad_token_id": None}, {"pad_token_id": 0}),
        ({"bos_token_id": None}, {"bos_token_id": None}, {"bos_token_id": None}),
        ({"tie_word_embeddings": None}, {}, {"tied_embeddings": False}),
        # The toy's own output layer is stored and is no copy of its table: it is used whatever the file says.
        ({"tie_word_embeddings": True}, {}, {"parameters": TOY.parameters, "tied_embeddings": False}),
    ],
)
def test_facts_follow_the_configuration(
    changes: dict[str, Any], generation: dict[str, Any], expected: dict[str, Any], toy: Path, models: Path
) -> None:
    edit_json(toy / "config.json", **changes)
    edit_json(toy / "generation_config.json", **generation)
    info = prepare(toy, models)
    assert {key: getattr(info, key) for key in expected} == expected


# As published: BLOOM's, MPT's, Falcon's, GPT-Neo's, GPT-J's, XGLM's, OPT's and Gemma 3n's own names of the same sizes.
OWN_NAMES: dict[str, dict[str, Any]] = {
    "BloomForCausalLM": {"model_type": "bloom", "n_embed": 16, "n_layer": 1, "n_head": 2, "seq_length": 128},
    "MptForCausalLM": {"model_type": "mpt", "d_model": 16, "n_layers": 1, "n_heads": 2, "max_seq_len": 128},
    "FalconForCausalLM": {"model_type": "falcon", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
    "GPTNeoForCausalLM": {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "max_position_embeddings": 128},
    "GPTJForCausalLM": {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 128, "n_inner": None},
    "GPT2LMHeadModel": {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_ctx": 128},
    "XGLMForCausalLM": {"d_model": 16, "num_layers": 1, "attention_heads": 2, "max_position_embeddings": 128},
    "OPTForCausalLM": {
        "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 9,
    },
    "Gemma3nForCausalLM": {
        "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 128,
        "intermediate_size": [32, 48],
    },
}  # fmt: skip


@pytest.mark.parametrize("architecture", OWN_NAMES)
def test_families_with_names_of_their_own_are_decoders_too(architecture: str) -> None:
    config = {"architectures": [architecture], "vocab_size": 272, **OWN_NAMES[architecture]}
    check_config(config, "x")
    sizes = dimensions(config, "x")
    assert (sizes["hidden_size"], sizes["layers"], sizes["attention_heads"], sizes["head_dim"]) == (16, 1, 2, 8)
    assert sizes["context_length"] > 0
    assert sizes["intermediate_size"] == (48 if architecture.startswith("Gemma3n") else 64)


def test_a_decoder_without_attention_is_refused_as_such() -> None:
    """It is no question of being a decoder: nothing of what the roofline counts would hold for it."""
    config = {"architectures": ["MambaForCausalLM"], "vocab_size": 272, "hidden_size": 16, "num_hidden_layers": 1}
    with pytest.raises(BadInput, match="lacks num_attention_heads") as caught:
        dimensions({**config, "max_position_embeddings": 128}, "x")
    assert "with attention" in caught.value.hint


def test_a_configuration_of_transformers_5_gains_the_keys_of_4_and_loses_nothing() -> None:
    rope = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0}
    both = portable_config({"dtype": "bfloat16", "rope_parameters": rope, "other": 1})
    assert both["rope_parameters"] == rope
    assert both["torch_dtype"] == "bfloat16"
    assert both["rope_theta"] == 5e5
    assert both["rope_scaling"] == {"rope_type": "llama3", "factor": 8.0}
    assert both["other"] == 1


def test_layers_with_a_window_keep_their_own_rotation() -> None:
    """Gemma 3's, as Transformers 5 writes it."""
    rope = {
        "full_attention": {"rope_theta": 1e6, "rope_type": "linear", "factor": 8.0},
        "sliding_attention": {"rope_theta": 1e4, "rope_type": "default"},
    }
    both = portable_config({"rope_parameters": rope})
    assert both["rope_parameters"] == rope
    assert (both["rope_theta"], both["rope_local_base_freq"]) == (1e6, 1e4)
    assert both["rope_scaling"] == {"rope_type": "linear", "factor": 8.0}


@pytest.mark.parametrize(
    "config",
    [
        {"torch_dtype": "float16", "dtype": "float16", "rope_theta": 1e4},
        {"rope_parameters": {"full_attention": {"rope_theta": 1.0}, "other_attention": {"rope_theta": 2.0}}},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}, "rope_theta": 2e4},
        {},
    ],
)
def test_what_a_configuration_says_itself_is_never_changed(config: dict[str, Any]) -> None:
    assert portable_config(config) == config


def test_the_tokenizer_class_of_transformers_5_gets_its_older_name() -> None:
    assert portable_tokenizer_config({"tokenizer_class": "TokenizersBackend", "a": 1}) == {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "a": 1,
    }
    assert portable_tokenizer_config({"tokenizer_class": "LlamaTokenizer"}) == {"tokenizer_class": "LlamaTokenizer"}


# --- what is refused ---


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def only_tokenizer_model(folder: Path) -> None:
    (folder / "tokenizer.json").rename(folder / "tokenizer.model")


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def only_pickles(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def truncated_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def garbage_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\x00" * 100)


def quantised_weights(folder: Path) -> None:
    header = {"a": {"dtype": "I32", "shape": [2], "data_offsets": [0, 8]}}
    (folder / "model.safetensors").write_bytes(safetensors_bytes(header, b"x" * 8))


def config_is(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / "config.json", **changes)


def config_text(text: bytes) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "config.json").write_bytes(text)

    return write


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (no_config, "has no config.json"),
        (no_tokenizer, "has no tokenizer.json"),
        (only_tokenizer_model, "tokenizer.model but no tokenizer.json"),
        (no_weights, "has no weights"),
        (only_pickles, "weights are pickled (pytorch_model.bin)"),
        (truncated_weights, "bytes instead of"),
        (garbage_weights, "not JSON"),
        (quantised_weights, "stored as I32"),
        (config_is(auto_map={"AutoModel": "modeling.Own"}), "code of its own"),
        (config_is(quantization_config={"quant_method": "gptq"}), "already quantised (gptq)"),
        (config_is(architectures=["BertForMaskedLM"]), "not a causal language model"),
        (config_is(architectures=None), "names no architecture"),
        (config_is(hidden_size=None), "lacks hidden_size"),
        (config_is(num_hidden_layers=-1), "num_hidden_layers = -1"),
        (config_is(vocab_size="many"), "vocab_size = many"),
        (config_text(b"{"), "not JSON"),
        (config_text(b"[]"), "not a JSON object"),
        (config_text(b"\xff\xfe"), "not JSON"),
        (config_text(b"[" * 100_000), "not JSON"),
        (config_text(b" " * (5 << 20)), "larger than 4 MiB"),
    ],
)
def test_a_folder_that_cannot_be_measured_is_refused(
    change: Callable[[Path], None], cause: str, toy: Path, models: Path
) -> None:
    change(toy)
    error = refused(toy, models)
    assert cause in error.cause
    assert str(toy) in error.cause


@pytest.mark.parametrize("name", ["/absent", "./absent", "a/b/c", "", "x\0y", "../up", "-x", "o/n--m"])
def test_a_name_that_is_no_model_is_refused(name: str, models: Path) -> None:
    refused(name, models)


def test_a_revision_means_nothing_outside_the_hub(toy: Path, models: Path) -> None:
    """Ignored silently, it would let a table claim a revision that was never read."""
    for name in (str(toy), "synthetic/tiny"):
        assert "not from the hub" in refused(name, models, revision="main").cause


def test_a_file_is_no_model_folder(toy: Path, models: Path) -> None:
    assert "no such model folder" in refused(toy / "config.json", models).cause


def test_a_missing_tokenizer_folder_is_refused_first(models: Path, tmp_path: Path) -> None:
    assert "no such folder" in refused("synthetic/llama-2-7b", models, tokenizer=tmp_path / "absent").cause


def test_a_model_larger_than_the_disk_is_refused(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=10_000_000_000))
    with pytest.raises(BadInput, match=r"not enough disk for model synthetic/llama-2-7b: 13.7 GB needed"):
        prepare("synthetic/llama-2-7b", models)
    assert not tree(models)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"])
def test_a_link_that_leads_out_of_the_folder_is_refused(name: str, toy: Path, models: Path, tmp_path: Path) -> None:
    (toy / name).rename(tmp_path / "outside")
    (toy / name).symlink_to(tmp_path / "outside")
    assert "leads out of its folder" in refused(toy, models).cause


def test_a_link_to_nothing_is_refused(toy: Path, models: Path) -> None:
    (toy / "generation_config.json").unlink()
    (toy / "generation_config.json").symlink_to(toy / "absent")
    assert "a link to nothing" in refused(toy, models).cause


def test_the_hubs_cache_is_read_through_its_links(toy: Path, models: Path, tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "models--owner--name"
    snapshot, blobs = repository / "snapshots" / ("c" * 40), repository / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate(sorted(toy.iterdir())):
        path.rename(blobs / str(number))
        (snapshot / path.name).symlink_to(Path("../../blobs") / str(number))
    info = prepare(snapshot, models)
    assert info.name == "owner/name"
    assert info.folder.startswith("owner--name-") or info.folder.startswith("owner-name-")
    assert not any(path.is_symlink() for path in (models / info.folder).rglob("*"))


# --- present, damaged, interrupted, at once ---


def test_what_is_present_is_not_made_again(toy: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (str(toy), "synthetic/tiny"):
        info = prepare(name, models)
        plan = plan_model(ModelRequest(name=name), models)
        assert (plan.action, plan.folder, plan.model, plan.bytes_expected) == ("present", info.folder, info, 0)
    before = {path: path.stat().st_mtime_ns for path in models.rglob("*") if ".locks" not in path.parts}

    def never(*_arguments: object) -> None:
        raise AssertionError("made again")

    monkeypatch.setattr(model_module, "_make", never)
    for name in (str(toy), "synthetic/tiny"):
        prepare(name, models)
    assert {path: path.stat().st_mtime_ns for path in models.rglob("*") if ".locks" not in path.parts} == before


def test_an_edited_source_is_another_model(toy: Path, models: Path) -> None:
    first = prepare(toy, models)
    edit_json(toy / "generation_config.json", eos_token_id=5)
    second = prepare(toy, models)
    assert first.digest != second.digest
    assert second.eos_token_ids == (5,)


def test_a_moved_copy_of_the_same_files_is_the_same_model(toy: Path, models: Path, tmp_path: Path) -> None:
    first = prepare(toy, models)
    shutil.copytree(toy, tmp_path / "copy" / toy.name)
    again = prepare(tmp_path / "copy" / toy.name, models)
    assert again == first
    assert plan_model(ModelRequest(name=str(tmp_path / "copy" / toy.name)), models).action == "present"


def delete_weights(hf: Path) -> None:
    (hf / "model.safetensors").unlink()


def shorten_weights(hf: Path) -> None:
    os.truncate(hf / "model.safetensors", 1000)


def flip_a_byte(hf: Path) -> None:
    path = hf / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(1, 1))


def delete_record(hf: Path) -> None:
    (hf / "artifact.json").unlink()


def break_record(hf: Path) -> None:
    (hf / "artifact.json").write_text("{")


def delete_folder(hf: Path) -> None:
    shutil.rmtree(hf)


def delete_facts(hf: Path) -> None:
    (hf.parent / "model.json").unlink()


@pytest.mark.parametrize(
    "damage",
    [delete_weights, shorten_weights, flip_a_byte, delete_record, break_record, delete_folder, delete_facts],
)
def test_a_damaged_model_is_made_again_and_its_other_artifacts_stay(
    damage: Callable[[Path], None], models: Path
) -> None:
    info = prepare("synthetic/tiny", models)
    wanted = tree(models / info.folder / "hf")
    converted = models / info.folder / "ct2-float32" / "model.bin"
    converted.parent.mkdir()
    converted.write_text("converted")
    damage(models / info.folder / "hf")
    assert prepare("synthetic/tiny", models) == info
    repaired = tree(models / info.folder / "hf")
    assert {n: c for n, c in repaired.items() if n != "artifact.json"} == {
        n: c for n, c in wanted.items() if n != "artifact.json"
    }
    assert plan_model(ModelRequest(name="synthetic/tiny"), models).action == "present"
    assert ModelInfo.read(models / info.folder / "model.json") == info
    assert converted.read_text() == "converted"
    assert [path.name for path in models.iterdir() if path.name != ".locks"] == [info.folder]


def test_a_plan_says_what_is_damaged(models: Path) -> None:
    info = prepare("synthetic/tiny", models)
    delete_weights(models / info.folder / "hf")
    plan = plan_model(ModelRequest(name="synthetic/tiny"), models)
    assert plan.action == "generate"
    assert "model.safetensors is missing" in plan.remark


@pytest.mark.parametrize("where", ["of_folder", "write_file", "replace_folder", "write_synthetic"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_a_crash_in_the_middle_leaves_no_half_folder(
    where: str, error: Any, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_arguments: object, **_options: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        if where == "of_folder":
            patch.setattr(ArtifactRecord, "of_folder", crash)
        elif where == "write_synthetic":
            patch.setattr(synthetic, "write_synthetic", crash)
        else:
            patch.setattr(model_module, where, crash)
        with pytest.raises((KeyboardInterrupt, BadInput)):
            prepare("synthetic/tiny", models)
        assert not tree(models)
    assert prepare("synthetic/tiny", models).synthetic


def test_two_processes_at_once_make_one_model(models: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench_core.prepare", "--models", str(models), "--model", "synthetic/tiny"]
    running = [
        subprocess.Popen([*command, "--data", str(tmp_path / f"data{n}")], stderr=subprocess.PIPE, text=True)
        for n in range(3)
    ]
    said = [process.communicate(timeout=60)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], said
    assert sum("random weights" in lines for lines in said) == 1
    assert len([path for path in models.iterdir() if path.name != ".locks"]) == 1


def test_a_folder_that_cannot_be_written_is_one_line(toy: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(BadInput) as caught:
        prepare(toy, tmp_path / "file" / "models")
    assert "must be writable" in caught.value.hint
