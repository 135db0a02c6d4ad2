"""What an engine has not found is an error that names it."""

from __future__ import annotations

import pytest

from bench_core.contract.loading import MissingWeights, require_all_modules, require_all_weights


def test_an_engine_that_found_everything_goes_on() -> None:
    require_all_weights({"missing_keys": set(), "unexpected_keys": {"a.bias"}, "mismatched_keys": []})
    require_all_modules(["a.weight", "b.qweight", "b.scales"], ["a.weight", "b.qweight", "c.weight"])


def test_the_first_missing_name_is_told_and_how_many_more() -> None:
    names = {f"layers.{n}.up.weight" for n in range(5)}
    with pytest.raises(MissingWeights, match=r"^the checkpoint lacks layers\.0\.up\.weight, .* and 2 more$"):
        require_all_weights({"missing_keys": names})


def test_a_weight_of_another_shape_is_told_with_both_shapes() -> None:
    with pytest.raises(MissingWeights, match=r"a\.weight has the shape \[2, 3\], the model's is \[4, 3\]"):
        require_all_weights({"mismatched_keys": [("a.weight", (2, 3), (4, 3))]})


def test_a_part_without_any_tensor_is_told_unless_it_is_tied() -> None:
    with pytest.raises(MissingWeights, match="no tensor of head"):
        require_all_modules(["a.weight", "head.weight"], ["a.weight"])
    require_all_modules(["a.weight", "head.weight"], ["a.weight"], tied=["head"])
