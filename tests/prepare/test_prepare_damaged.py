"""A checkpoint that lacks weights is refused before an engine is installed; a whole one never is."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from damage import DAMAGES, Damage, sharded_model, whole_model, without
from prepare_material import edit_json

from bench_core.contract.errors import BadInput
from bench_core.contract.records.artifact import ArtifactRecord
from bench_core.prepare.models.completeness import require_complete
from bench_core.prepare.models.model import ModelRequest, plan_model, prepare_model
from bench_core.prepare.models.weights import Tensor

LAYOUTS = json.loads((Path(__file__).parent / "layouts.json").read_text())


def plan(folder: Path, tmp_path: Path) -> None:
    plan_model(ModelRequest(name=str(folder)), tmp_path / "models")


@pytest.mark.parametrize("make", [whole_model, sharded_model])
def test_a_whole_checkpoint_is_taken(make: Any, tmp_path: Path) -> None:
    plan(make(tmp_path / "toy"), tmp_path)


@pytest.mark.parametrize("damage", [d for d in DAMAGES if d.shows], ids=lambda d: d.name)
def test_a_damaged_checkpoint_is_refused_by_the_plan(damage: Damage, tmp_path: Path) -> None:
    """Planning reads headers, builds nothing and writes nothing; preparing says the same."""
    folder = (sharded_model if damage.sharded else whole_model)(tmp_path / "toy")
    damage.apply(folder)
    with pytest.raises(BadInput) as caught:
        plan(folder, tmp_path)
    assert damage.sign in caught.value.cause
    assert caught.value.hint
    assert not (tmp_path / "models").exists()
    with pytest.raises(BadInput) as prepared:
        prepare_model(ModelRequest(name=str(folder)), tmp_path / "models")
    assert str(prepared.value) == str(caught.value)


def test_a_model_that_was_prepared_before_is_looked_at_again(tmp_path: Path) -> None:
    """One from the hub is not read anew; it may have been taken when nobody compared it with its configuration."""
    info = prepare_model(ModelRequest(name="synthetic/tiny"), tmp_path / "models")
    hf = tmp_path / "models" / info.folder / "hf"
    record = ArtifactRecord.read(hf / "artifact.json")
    without("model.norm.weight")(hf)
    changed = ArtifactRecord.of_folder(
        hf, artifact="hf", source_digest=None, converter_digest=record.converter_digest,
        made_by=record.made_by, seconds=0, facts=record.facts,
    )  # fmt: skip
    (hf / "artifact.json").write_text(changed.to_json())
    with pytest.raises(BadInput, match=r"model\.norm\.weight is missing"):
        plan_model(ModelRequest(name="synthetic/tiny"), tmp_path / "models")


def test_there_are_twenty_kinds_of_damage_and_more() -> None:
    """The rest, which headers do not show, is for the engines' tests."""
    assert sum(d.shows for d in DAMAGES) >= 20
    assert not all(d.shows for d in DAMAGES)


def test_a_tied_checkpoint_needs_no_head_and_may_have_one(tmp_path: Path) -> None:
    folder = whole_model(tmp_path / "toy")
    edit_json(folder / "config.json", tie_word_embeddings=True)
    plan(folder, tmp_path)
    without("lm_head.weight")(folder)
    plan(folder, tmp_path)


def test_a_tied_checkpoint_may_store_its_one_table_as_the_head(tmp_path: Path) -> None:
    folder = whole_model(tmp_path / "toy")
    edit_json(folder / "config.json", tie_word_embeddings=True)
    without("embed_tokens.weight")(folder)
    plan(folder, tmp_path)


def layout(family: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """``config.json`` and tensors of a family's class; {N} in a name stands for the layers named beside it."""
    entry = LAYOUTS[family]
    tensors = {}
    for name, shape, layers in entry["tensors"]:
        for span in layers.split(","):
            first, _, last = span.partition("-")
            for layer in range(int(first), int(last or first) + 1) if span else [0]:
                tensors[name.replace("{N}", str(layer))] = Tensor("F32", tuple(shape))
    return entry["config"], tensors


@pytest.mark.parametrize("family", sorted(LAYOUTS))
def test_a_whole_checkpoint_of_every_family_is_taken(family: str) -> None:
    """Names and shapes are those of Transformers' own classes: hybrid layers, experts, windows, shared blocks."""
    config, tensors = layout(family)
    require_complete(config, tensors, family)


# Layers numbered in ways of their own: engines tell what is missing, headers do not.
OTHERWISE_NUMBERED = {"git", "hrm_text", "moshi"}
# Their layers share weights, or no two of them are alike in the default configuration.
NO_TWO_ALIKE = {"zamba", "zamba2", "nemotron_h"}


@pytest.mark.parametrize("family", sorted(set(LAYOUTS) - OTHERWISE_NUMBERED - NO_TWO_ALIKE))
def test_one_lost_tensor_of_every_family_is_seen(family: str) -> None:
    """Of a layer in the middle, the first and the last by name."""
    config, tensors = layout(family)
    middle = sorted({int(name.split(".")[p]) for name in tensors if (p := _place(name)) is not None})
    index = str(middle[len(middle) // 2])
    own = sorted(name for name in tensors if (p := _place(name)) is not None and name.split(".")[p] == index)
    for lost in (own[0], own[-1]):
        with pytest.raises(BadInput, match=re.escape(lost)):
            require_complete(config, {name: t for name, t in tensors.items() if name != lost}, family)


@pytest.mark.parametrize("family", sorted(set(LAYOUTS) - OTHERWISE_NUMBERED))
def test_a_lost_layer_of_every_family_is_seen(family: str) -> None:
    config, tensors = layout(family)
    last = max(int(name.split(".")[place]) for name in tensors if (place := _place(name)) is not None)
    kept = {name: t for name, t in tensors.items() if (p := _place(name)) is None or name.split(".")[p] != str(last)}
    with pytest.raises(BadInput, match=r"missing|layer"):
        require_complete(config, kept, family)


def _place(name: str) -> int | None:
    return next((place for place, part in enumerate(name.split(".")) if part.isdigit()), None)
