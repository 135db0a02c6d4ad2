"""``image.yaml``: every promise about an image is checked when it is read, and a mistake is named by line and key."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench_core.contract.asked.manifest import Manifest
from bench_core.contract.errors import BadInput
from bench_core.contract.models.stored_bits import bits_in_title

TEXT = """\
name: engine-x
title: Engine X
adapter: adapter:EngineX
batching: native
token_times: live
devices: [cuda, cpu]
packages: [engine-x]
converts: {x-int8: convert:to_x}
options: {kernel: {type: str, default: slow, words: how fast}, level: {type: int, default: 1, words: how hard, max: 9}}
variants:
  int8:
    artifact: x-int8
    devices: [cuda]
    default: true
    options: {kernel: fast, level: 3}
  float32:
    artifact: hf
    title: 32-bit
    default: true
    reference: true
  slow: {artifact: hf, devices: [cpu]}
"""


def load(folder: Path, text: str = TEXT) -> Manifest:
    (folder / "image.yaml").write_text(text, encoding="utf-8")
    return Manifest.load(folder)


def changed(old: str, new: str) -> str:
    assert TEXT.count(old) == 1, f"{old!r} does not stand once in the manifest of this test"
    return TEXT.replace(old, new)


def refusal(folder: Path, text: str) -> BadInput:
    with pytest.raises(BadInput) as caught:
        load(folder, text)
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("more", ["", ", serve: [], default: true"])
def test_a_variant_without_closed_batches_is_served_and_no_default(tmp_path: Path, more: str) -> None:
    text = changed("  slow: {artifact: hf, ", f"  slow: {{artifact: hf, closed_batches: false{more}, ")
    assert "no closed batches" in str(refusal(tmp_path, text))


def test_a_variant_is_not_speculative_where_it_does_not_say_so(tmp_path: Path) -> None:
    text = changed("  slow: {artifact: hf, ", "  slow: {artifact: hf, speculative: true, ")
    variants = load(tmp_path, text).variants
    assert [name for name, entry in variants.items() if entry.speculative] == ["slow"]


def test_a_good_manifest_is_read_with_its_defaults(tmp_path: Path) -> None:
    manifest = load(tmp_path)
    assert manifest.variants["int8"].options == {"kernel": "fast", "level": 3}
    assert manifest.base == "base"
    assert not manifest.convert_target
    assert manifest.known_failures == ()
    assert manifest.variants["float32"].reference
    assert not manifest.variants["int8"].reference


def test_the_first_default_of_a_device_counts(tmp_path: Path) -> None:
    manifest = load(tmp_path)
    assert manifest.default_variant("cuda") == "int8"
    assert manifest.default_variant("cpu") == "float32"
    assert manifest.variants_on("cuda") == ("int8", "float32")
    assert manifest.variants_on("cpu") == ("float32", "slow")


def test_a_device_that_the_image_lacks_has_no_variant_and_no_default(tmp_path: Path) -> None:
    manifest = load(tmp_path, changed("devices: [cuda, cpu]", "devices: [cpu]"))
    assert manifest.variants_on("cuda") == ()
    with pytest.raises(BadInput) as caught:
        manifest.default_variant("cuda")
    assert (caught.value.cause, caught.value.hint) == ("image engine-x does not run on cuda", "it runs on cpu")


def test_overrides_replace_options_of_one_call_only(tmp_path: Path) -> None:
    manifest = load(tmp_path)
    variant = manifest.variant("int8", {"level": 9})
    assert variant.name == "int8"
    assert variant.artifact == "x-int8"
    assert variant.options == {"kernel": "fast", "level": 9}
    assert manifest.variant("float32").options == {"kernel": "slow", "level": 1}
    assert manifest.variant("int8").options == {"kernel": "fast", "level": 3}


def test_an_unknown_variant_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(BadInput) as caught:
        load(tmp_path).variant("int4")
    assert caught.value.cause == "image engine-x has no variant 'int4'"
    assert caught.value.hint == "variants: int8, float32, slow"


def test_a_row_is_named_by_engine_and_variant(tmp_path: Path) -> None:
    manifest = load(tmp_path)
    assert manifest.label("int8") == "Engine X int8"
    assert manifest.label("float32") == "Engine X 32-bit"


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        ("name: engine-x", "name: Engine X", ":1: name: "),
        ("name: engine-x", "name: ../x", ":1: name: "),
        ("title: Engine X", "title: ''", ":2: title: a title is one printable line"),
        ("title: Engine X", f"title: {'x' * 61}", ":2: title: a title is one printable line"),
        ("title: Engine X", 'title: "two\\nlines"', ":2: title: a title is one printable line"),
        ("adapter: adapter:EngineX", "adapter: adapter", ":3: adapter: "),
        ("adapter: adapter:EngineX", "adapter: os.path:join", ":3: adapter: "),
        ("batching: native", "batching: sometimes", ":4: batching: "),
        ("token_times: live", "token_times: guessed", ":5: token_times: "),
        ("devices: [cuda, cpu]", "devices: [cuda, tpu]", ":6: devices.1: "),
        ("devices: [cuda, cpu]", "devices: []", ":6: devices: "),
        ("packages: [engine-x]", "packages: engine-x", ":7: packages: "),
        ("{x-int8: convert:to_x}", "{X Int8: convert:to_x}", ":8: converts.X Int8"),
        ("{x-int8: convert:to_x}", "{x-int8: to_x}", ":8: converts.x-int8: "),
        ("{kernel: fast, level: 3}", "{kernle: fast}", ":15: variants.int8.options.kernle: image engine-x has no"),
        ("{kernel: fast, level: 3}", "{level: fast}", ":15: variants.int8.options.level: option engine-x.level: "),
        ("{kernel: fast, level: 3}", "{level: 3.0}", ":15: variants.int8.options.level: option engine-x.level: 3.0 "),
        ("{kernel: fast, level: 3}", "{level: 10}", ":15: variants.int8.options.level: option engine-x.level: 10 "),
        ("type: int, default: 1", "type: int, default: one", ":9: options.level: default: 'one' is not a whole number"),
        ("type: int, default: 1", "type: whole, default: 1", ":9: options.level.type: "),
        ("{kernel: {type: str", "{Kernel!: {type: str", ":9: options.Kernel!"),
        ("    title: 32-bit", "    titel: 32-bit", ":18: variants.float32.titel: unknown key"),
        ("{kernel: fast, level: 3}", "{kernel: [fast]}", ":15: variants.int8.options.kernel"),
        ("    reference: true", "    reference: perhaps", ":20: variants.float32.reference: "),
        ("  slow: {artifact: hf, devices: [cpu]}", "  slow: {artifact: hf, speed: 1}", ":21: variants.slow.speed: "),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_by_file_line_and_key(tmp_path: Path, old: str, new: str, where: str) -> None:
    cause = refusal(tmp_path, changed(old, new)).cause
    assert cause.startswith(f"{tmp_path}/image.yaml{where}")


def test_every_device_needs_a_default_variant(tmp_path: Path) -> None:
    text = changed("    title: 32-bit\n    default: true\n", "    title: 32-bit\n")
    assert "no variant is the default on cpu" in refusal(tmp_path, text).cause


def test_a_default_on_another_device_is_no_default_here(tmp_path: Path) -> None:
    text = changed("    title: 32-bit\n    default: true\n", "    title: 32-bit\n    devices: [cpu]\n")
    assert "no variant is the default on cpu" in refusal(tmp_path, text).cause


def test_a_convert_target_without_converters_is_refused(tmp_path: Path) -> None:
    without = changed("converts: {x-int8: convert:to_x}", "convert_target: true")
    assert "convert_target is set but nothing is converted" in refusal(tmp_path, without).cause
    assert load(tmp_path, TEXT + "convert_target: true\n").convert_target


def test_a_known_failure_needs_a_reason_in_words(tmp_path: Path) -> None:
    declared = TEXT + "known_failures:\n  - check: eos_stop\n    reason: because\n"
    assert f"{tmp_path}/image.yaml:24: known_failures.0.reason: " in refusal(tmp_path, declared).cause
    good = load(tmp_path, declared.replace("because", "the engine stops a token late"))
    assert good.known_failures[0].variants == ()


def test_an_unknown_key_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    error = refusal(tmp_path, TEXT + "adaptor: x\n")
    assert error.cause.startswith(f"{tmp_path}/image.yaml:22: adaptor: ")
    assert "adapter" in error.hint


def test_a_folder_without_a_readable_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be read"):
        Manifest.load(tmp_path)
    (tmp_path / "image.yaml").write_bytes(b"name: \xff\xfe\n")
    with pytest.raises(BadInput, match="cannot be read"):
        Manifest.load(tmp_path)


def test_environment_variables_of_an_engine_are_read(tmp_path: Path) -> None:
    text = changed("packages: [engine-x]\n", 'environment: {X_SAMPLER: "0"}\npackages: [engine-x]\n')
    assert load(tmp_path, text).environment == {"X_SAMPLER": "0"}
    assert load(tmp_path).environment == {}


@pytest.mark.parametrize("name", ["LD_PRELOAD", "PYTHONPATH", "CUDA_VISIBLE_DEVICES", "PATH", "HOME", "lower"])
def test_a_variable_that_would_come_too_late_or_is_the_launchers_is_refused(tmp_path: Path, name: str) -> None:
    text = changed("packages: [engine-x]\n", f'environment: {{{name}: "1"}}\npackages: [engine-x]\n')
    assert "environment" in refusal(tmp_path, text).cause


@pytest.mark.parametrize(
    "budget",
    [
        "{option: o, unit: fraction, min: 0.1, max: 1.5}",
        "{option: o, unit: bytes, min: 10, max: 10}",
        "{option: o, unit: gib, min: 1, max: 2}",
        "{unit: bytes, min: 1, max: 2}",
        "{option: p, unit: fraction, min: 0.1, max: 1}",
        "{option: o, unit: bytes, min: 1, max: 2}",
    ],
)
def test_a_memory_budget_is_a_range_of_an_option(tmp_path: Path, budget: str) -> None:
    text = (
        "{name: a, title: A, adapter: 'a:B', batching: native, token_times: live, devices: [cpu], packages: [], "
        "options: {o: {type: float, default: 0.9, words: its share}}, "
        "variants: {v: {artifact: none, default: true}}, memory_budget: %s}"
    )
    (tmp_path / "image.yaml").write_text(text % "{option: o, unit: fraction, min: 0.1, max: 1}")
    assert Manifest.load(tmp_path).memory_budget is not None
    (tmp_path / "image.yaml").write_text(text % budget)
    with pytest.raises(BadInput, match="memory_budget"):
        Manifest.load(tmp_path)


IMAGES = Path(__file__).parents[2] / "images"


@pytest.mark.parametrize("folder", sorted(path.parent for path in IMAGES.glob("*/image.yaml")), ids=lambda p: p.name)
def test_every_variant_that_reads_weights_declares_the_bits_that_its_title_names(folder: Path) -> None:
    manifest = Manifest.load(folder)
    for name, entry in manifest.variants.items():
        assert (entry.bits is None) == (entry.artifact == "none"), name
        assert bits_in_title(manifest.label(name)) in (None, entry.bits), name
