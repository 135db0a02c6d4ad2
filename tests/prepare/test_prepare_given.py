"""An artifact from elsewhere: brought once, refused where it is pickled, damaged or of another model."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from damage import without
from prepare_material import edit_json, toy_model, tree
from quantised_files import gguf_bytes, gptq_config, gptq_file, llama_tensors
from test_prepare_hub import COMMIT, Hub, hub  # noqa: F401  # a fixture

from bench_core.contract.errors import BadInput
from bench_core.contract.models.model import ModelInfo
from bench_core.contract.records.artifact import ArtifactRecord
from bench_core.prepare.models.given_artifact import plan_given, prepare_given
from bench_core.prepare.models.model import ModelRequest, prepare_model

ARTIFACT = "gptq-int4-g128"


@pytest.fixture
def model(tmp_path: Path) -> ModelInfo:
    """The model that artifacts are of, in ``models``."""
    return prepare_model(ModelRequest(name=str(toy_model(tmp_path / "source"))), tmp_path / "models")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with an artifact of that model."""
    return _quantised(tmp_path / "quantised")


def _quantised(folder: Path, **made: Any) -> Path:
    toy_model(folder, seed=1)
    gptq_file(folder / "model.safetensors", vocab_size=272, around=True, **made)
    edit_json(folder / "config.json", **gptq_config(), num_hidden_layers=made.get("layers", 1))
    return folder


def _cause(source: Path | str, model: ModelInfo, models: Path) -> str:
    before = tree(models)
    with pytest.raises(BadInput) as caught:
        prepare_given(ARTIFACT, str(source), model, models)
    assert {name for name in tree(models) if ".locks" not in name} == {n for n in before if ".locks" not in n}
    return caught.value.cause


def test_a_folder_becomes_the_models_artifact_and_is_not_read_again(
    source: Path, model: ModelInfo, tmp_path: Path
) -> None:
    models = tmp_path / "models"
    assert plan_given(ARTIFACT, str(source), model, models).action == "link"
    record = prepare_given(ARTIFACT, str(source), model, models)
    target = models / model.folder / ARTIFACT
    assert ArtifactRecord.read(target / "artifact.json") == record
    assert (record.source_digest, record.given, record.artifact) == (model.digest, "quantised", ARTIFACT)
    assert str(tmp_path) not in record.to_json()
    assert (target / "model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()
    assert plan_given(ARTIFACT, str(source), model, models).action == "present"
    assert prepare_given(ARTIFACT, str(source), model, models) == record


def test_another_source_takes_the_place_and_the_persons_own_files_stay(
    source: Path, model: ModelInfo, tmp_path: Path
) -> None:
    models = tmp_path / "models"
    own = tree(source)
    first = prepare_given(ARTIFACT, str(source), model, models)
    other = _quantised(tmp_path / "other", layers=2)
    assert plan_given(ARTIFACT, str(other), model, models).action == "link"
    second = prepare_given(ARTIFACT, str(other), model, models)
    assert second.digest != first.digest
    assert second.damage(models / model.folder / ARTIFACT) is None
    assert tree(source) == own


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("vocab_size", 273, "its vocab_size is 273, the model's 272"),
        ("hidden_size", 64, "its hidden_size is 64"),
        ("architectures", ["GPT2LMHeadModel"], "its architecture is GPT2LMHeadModel"),
        ("auto_map", {"AutoModel": "m.Own"}, "code of its own"),
    ],
)
def test_an_artifact_of_another_model_is_refused(
    source: Path, model: ModelInfo, tmp_path: Path, key: str, value: object, said: str
) -> None:
    edit_json(source / "config.json", **{key: value})
    assert said in _cause(source, model, tmp_path / "models")
    with pytest.raises(BadInput, match=said[:20]):
        plan_given(ARTIFACT, str(source), model, tmp_path / "models")


def test_an_artifact_that_lacks_weights_is_refused(source: Path, model: ModelInfo, tmp_path: Path) -> None:
    """Engines of quantised checkpoints fill holes, too; the plan says so, and so does preparing."""
    without("lm_head.weight")(source)
    with pytest.raises(BadInput, match=r"lm_head\.weight is missing"):
        plan_given(ARTIFACT, str(source), model, tmp_path / "models")
    assert "lm_head.weight is missing" in _cause(source, model, tmp_path / "models")


@pytest.mark.parametrize(
    ("name", "content"),
    [("pytorch_model.bin", b"x"), ("weights.pt", b"x"), ("model.bin", b"\x80\x02x"), ("model.bin", b"PK\x03\x04")],
)
def test_pickled_weights_are_refused_by_name_and_by_content(
    source: Path, model: ModelInfo, tmp_path: Path, name: str, content: bytes
) -> None:
    (source / "model.safetensors").unlink()
    (source / name).write_bytes(content)
    assert f"the weights are pickled ({name})" in _cause(source, model, tmp_path / "models")


def test_weights_of_a_binary_format_that_is_no_pickle_are_taken_without_a_full_config(
    source: Path, model: ModelInfo, tmp_path: Path
) -> None:
    (source / "model.safetensors").unlink()
    (source / "model.bin").write_bytes(b"\x06\x00\x00\x00weights")
    (source / "config.json").write_text(json.dumps({"layer_norm_epsilon": 1e-5}))
    record = prepare_given("ct2-int8", str(source), model, tmp_path / "models")
    assert "model.bin" in {file.path for file in record.files}


def test_of_several_quantisations_the_one_of_the_artifacts_name_is_taken(
    source: Path, model: ModelInfo, tmp_path: Path
) -> None:
    (source / "model.safetensors").unlink()
    for form, kind in (("Q4_K_M", "Q4_K"), ("Q8_0", "Q8_0")):
        (source / f"toy.{form}.gguf").write_bytes(gguf_bytes(llama_tensors({"*": kind}, 256, 512)))
    record = prepare_given("gguf-q8_0", str(source), model, tmp_path / "models")
    assert [file.path for file in record.files if file.path.endswith(".gguf")] == ["toy.Q8_0.gguf"]
    assert record.facts["tensors"] == "F32 2, Q8_0 8"
    with pytest.raises(BadInput, match=r"q2_k\.gguf"):
        prepare_given("gguf-q2_k", str(source), model, tmp_path / "models")


def test_a_gguf_file_of_another_type_than_its_name_is_refused(source: Path, model: ModelInfo, tmp_path: Path) -> None:
    (source / "model.safetensors").unlink()
    (source / "toy.Q4_K_M.gguf").write_bytes(gguf_bytes(llama_tensors({"*": "Q8_0"}, 256, 512)))
    said = r"most of its projections are Q8_0 \(F32 2, Q8_0 8\)"
    with pytest.raises(BadInput, match=said):
        plan_given("gguf-q4_k_m", str(source), model, tmp_path / "models")
    with pytest.raises(BadInput, match=said):
        prepare_given("gguf-q4_k_m", str(source), model, tmp_path / "models")


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ({"act_order": True}, "act-order"),
        ({"asymmetric": True}, "not those of symmetric weights"),
        ({"group": 32}, "its groups are of 32"),
        ({"bits": 8, "zero": 127}, "its weights have 8 bits"),
        ({"leave_out": ["qweight", "qzeros", "scales", "g_idx"]}, "no quantised layer"),
    ],
)
def test_gptq_tensors_that_contradict_name_or_label_are_refused(
    model: ModelInfo, tmp_path: Path, made: dict[str, Any], said: str
) -> None:
    """The folder's own label says 4 bits, groups of 128, no act-order, symmetric."""
    source = _quantised(tmp_path / "labelled", **made)
    assert said in _cause(source, model, tmp_path / "models")
    with pytest.raises(BadInput, match=said):
        plan_given(ARTIFACT, str(source), model, tmp_path / "models")


def test_what_the_tensors_are_is_kept_with_the_artifact(source: Path, model: ModelInfo, tmp_path: Path) -> None:
    record = prepare_given(ARTIFACT, str(source), model, tmp_path / "models")
    assert record.facts["tensors"] == "4 bits, groups of 128, no act-order, symmetric"


@pytest.mark.parametrize("damage", ["truncated", "outside", "several", "empty"])
def test_a_damaged_source_is_refused(source: Path, model: ModelInfo, tmp_path: Path, damage: str) -> None:
    weights = source / "model.safetensors"
    content = weights.read_bytes()
    if damage == "truncated":
        weights.write_bytes(content[:-5])
    elif damage == "outside":
        (tmp_path / "elsewhere.safetensors").write_bytes(content)
        weights.unlink()
        weights.symlink_to(tmp_path / "elsewhere.safetensors")
    elif damage == "several":
        weights.rename(source / "a.safetensors")
        shutil.copy(source / "a.safetensors", source / "b.safetensors")
    else:
        weights.unlink()
    said = {"truncated": "instead of", "outside": "leads out", "several": "several weights", "empty": "has no weights"}
    assert said[damage] in _cause(source, model, tmp_path / "models")


@pytest.mark.parametrize("word", ["", "./nowhere", "a/b/c", "owner/name@", "../../etc", "x\0y"])
def test_a_word_that_is_no_source_is_refused(word: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput):
        plan_given(ARTIFACT, word, None, tmp_path / "models")


@pytest.mark.parametrize("name", ["hf", "none", "../x", "a/b"])
def test_a_name_that_is_no_artifacts_is_refused(name: str, source: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be given"):
        plan_given(name, str(source), None, tmp_path / "models")


def test_not_enough_disk_is_said_before_weights_travel(
    hub: Hub,  # noqa: F811
    model: ModelInfo,
    tmp_path: Path,
) -> None:
    done = _bring(hub, tmp_path, model, free_bytes=1 << 20)
    assert "not enough disk for artifact" in done.stderr
    assert not any(name.endswith(".safetensors") for name in hub.fetched())


def test_an_artifact_of_the_hub_is_downloaded_once_and_only_what_is_needed(
    hub: Hub,  # noqa: F811
    model: ModelInfo,
    tmp_path: Path,
) -> None:
    for path in hub.folder.glob("*.safetensors*"):
        path.unlink()
    gptq_file(hub.folder / "model.safetensors", vocab_size=272, around=True)
    for name in ("README.md", "pytorch_model.bin", "modeling.py", "onnx/model.onnx"):
        (hub.folder / name).parent.mkdir(exist_ok=True)
        (hub.folder / name).write_text("x")
    done = _bring(hub, tmp_path, model)
    assert done.returncode == 0, done.stderr
    record = ArtifactRecord.read(tmp_path / "models" / model.folder / ARTIFACT / "artifact.json")
    assert (record.given, record.facts["commit"], record.source_digest) == ("owner/toy@main", COMMIT, model.digest)
    assert {file.path for file in record.files} == hub.fetched()
    assert not hub.fetched() & {"README.md", "pytorch_model.bin", "modeling.py"}
    assert not list((tmp_path / "models").glob(".download-*"))
    hub.seen.clear()
    assert _bring(hub, tmp_path, model).returncode == 0
    assert hub.seen == []


def test_another_models_artifact_is_refused_before_its_weights_travel(
    hub: Hub,  # noqa: F811
    model: ModelInfo,
    tmp_path: Path,
) -> None:
    edit_json(hub.folder / "config.json", hidden_size=64)
    done = _bring(hub, tmp_path, model)
    assert "its hidden_size is 64" in done.stderr
    assert not any(name.endswith(".safetensors") for name in hub.fetched())


_SCRIPT = """
import shutil, sys
from pathlib import Path
from typing import Any
from bench_core.contract.models.model import ModelInfo
from bench_core.prepare.models.given_artifact import prepare_given
models, folder, artifact, source, free = Path(sys.argv[1]), *sys.argv[2:]
if int(free):
    usage = shutil.disk_usage(models)
    shutil.disk_usage = lambda path: usage._replace(free=int(free))
prepare_given(artifact, source, ModelInfo.read(models / folder / "model.json"), models)
"""


def _bring(hub: Hub, home: Path, model: ModelInfo, free_bytes: int = 0) -> subprocess.CompletedProcess[str]:  # noqa: F811
    """In a process of its own: the hub's libraries read their environment when they are imported."""
    words = [str(home / "models"), model.folder, ARTIFACT, "owner/toy@main", str(free_bytes)]
    environment = {
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
        "PATH": "",
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home / "hf-home"),
        "HF_HUB_DISABLE_XET": "1",
    }
    return subprocess.run(
        [sys.executable, "-c", _SCRIPT, *words], env=environment, capture_output=True, text=True, check=False
    )
