"""The parameters at the output sites, as a report shows them without the checkpoint."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from robustness.anatomy.parameters import SiteParameters
from robustness.checkpoint.resolving import resolve
from robustness.outliers.model_profile import ModelProfile
from robustness.outliers.site_values import SiteValues, site_values
from robustness.policy.policy import load_policy
from robustness.report.json_document import laid_out
from robustness.report.parts import Sites
from robustness.run.planning import make_plan
from robustness.store.context import Context
from robustness.vetting import Vetting
from tests.support.checkpoints.checkpoint_folders import save_checkpoint, tiny_model
from tests.support.checkpoints.planted import planted_text


def examined(folder: Path, model: Any, **options: Any) -> ModelProfile:
    """What is known of a saved model before a run."""
    (folder / "text.txt").write_text(planted_text())
    path = save_checkpoint(folder / "model", model)
    given = {"corpus": str(folder / "text.txt"), "block_size": 32, **options}
    settings = load_policy(None, options=given).settings("model")
    checkpoint = resolve(str(path), cache=folder / "store")
    store = folder / "store"
    return Vetting(
        checkpoint=checkpoint, settings=settings, context=Context(root=store)
    ).model_profile


def plain_z(row: np.ndarray[Any, Any]) -> list[float]:
    """(x - mean) / unbiased standard deviation, number by number."""
    values = [float(value) for value in row]
    mean = math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return [(value - mean) / math.sqrt(variance) for value in values]


def agree(shown: Any, expected: Any, digits: int) -> None:
    """Equal but for rounding to so many significant digits."""
    shown, expected = np.array(shown), np.array(expected)
    assert shown.shape == expected.shape
    assert (np.abs(shown - expected) <= 0.5000001 * 10.0 ** (1 - digits) * np.abs(expected)).all()


def test_values_and_z_scores_are_those_of_the_files_norms(tmp_path: Path) -> None:
    model = tiny_model(num_hidden_layers=3, hidden_size=32)
    for layer in model.bert.encoder.layer:
        layer.output.LayerNorm.weight.data.normal_(1, 0.3)
        layer.output.LayerNorm.bias.data.normal_(0, 0.01)
    found = examined(tmp_path, model).values
    assert found is not None
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    names = [f"bert.encoder.layer.{layer}.output.LayerNorm" for layer in range(3)]
    for shown, z, part in (
        (found.scale, found.scale_z, "weight"),
        (found.bias, found.bias_z, "bias"),
    ):
        agree(shown, [tensors[f"{name}.{part}"] for name in names], 5)
        agree(z, [plain_z(tensors[f"{name}.{part}"]) for name in names], 4)
    assert (found.site, found.dims) == ("output norm", None)


def test_values_and_z_scores_are_those_of_the_files_dense_writers(tmp_path: Path) -> None:
    model = tiny_model("GPT2LMHeadModel", hidden_size=32, n_inner=24, n_positions=40)
    for block in model.transformer.h:
        block.mlp.c_proj.bias.data.normal_()
    found = examined(tmp_path, model).values
    assert found is not None
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    scale = np.array(
        [
            [
                math.sqrt(math.fsum(float(weight) ** 2 for weight in column))
                for column in tensors[f"transformer.h.{layer}.mlp.c_proj.weight"].T  # (in, out)
            ]
            for layer in range(2)
        ]
    )
    bias = np.array([tensors[f"transformer.h.{layer}.mlp.c_proj.bias"] for layer in range(2)])
    agree(found.scale, scale, 5)
    agree(found.bias, bias, 5)
    agree(found.scale_z, [plain_z(row) for row in scale], 4)
    agree(found.bias_z, [plain_z(row) for row in bias], 4)
    assert found.site == "output writer"


def test_a_rule_on_activations_has_them_too(tmp_path: Path) -> None:
    found = examined(tmp_path, tiny_model(hidden_size=32), rule="kurtosis")
    assert found.values is not None
    assert np.shape(found.values.scale) == (2, 32)


def parameters(layers: int, width: int, *, bias: bool = True) -> SiteParameters:
    rng = np.random.default_rng(0)
    return SiteParameters(
        scale=rng.normal(size=(layers, width)),
        bias=rng.normal(size=(layers, width)) if bias else None,
        distinct_sites=layers,
    )


def test_a_wide_model_keeps_its_outliers_and_the_most_extreme_columns() -> None:
    read = parameters(4, 100)
    least = int(np.argmin(np.abs([plain_z(row) for row in read.scale]).max(axis=0)))
    found = site_values(read, kinds=["norm"] * 4, keep=[least], most_entries=40)
    whole = site_values(read, kinds=["norm"] * 4, keep=[])
    assert whole.dims is None
    assert found.dims is not None
    assert len(found.dims) == 10
    assert list(found.dims) == sorted(found.dims)
    assert least in found.dims
    for name in ("scale", "bias", "scale_z", "bias_z"):
        kept, all_ = np.array(getattr(found, name)), np.array(getattr(whole, name))
        assert kept.tolist() == all_[:, list(found.dims)].tolist(), name  # z over all dimensions
    extreme = np.maximum(*(np.abs(getattr(whole, n)).max(axis=0) for n in ("scale_z", "bias_z")))
    others = np.delete(extreme, list(found.dims))
    assert min(extreme[dim] for dim in found.dims if dim != least) >= others.max()


def test_more_outliers_than_there_is_room_for_are_all_kept() -> None:
    found = site_values(parameters(4, 100), kinds=["norm"], keep=range(0, 60, 2), most_entries=40)
    assert found.dims == tuple(range(0, 60, 2))


def test_values_that_are_no_numbers_have_no_z_scores_and_are_text_in_the_report() -> None:
    read = parameters(2, 8)
    read.scale[1, 3] = np.nan
    found = site_values(read, kinds=["writer", "norm"], keep=[])
    assert found.scale_z is None
    assert found.bias_z is not None
    assert found.site == "output site"
    reported = Sites.model_validate(found.to_dict(), strict=False).model_dump(mode="json")
    assert reported["scale"][1][3] == "nan"


def test_a_site_without_bias_has_none() -> None:
    found = site_values(parameters(2, 8, bias=False), kinds=["norm"], keep=[])
    assert found.bias is found.bias_z is None
    assert SiteValues.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_of_a_mixture_of_experts_they_are_those_of_the_norms_before_them(tmp_path: Path) -> None:
    model = tiny_model(
        "MixtralForCausalLM",
        hidden_size=16,
        intermediate_size=24,
        num_key_value_heads=1,
        num_local_experts=2,
        max_position_embeddings=40,
    )
    rules = {"massive": {"threshold": 1e9}}
    found = examined(tmp_path, model, rule="massive", site="residual", rules=rules)
    assert found.values is not None
    assert found.values.site == "reading norm"
    norms = [layer.post_attention_layernorm.weight.tolist() for layer in model.model.layers]
    assert found.values.scale == tuple(tuple(float(f"{x:.4e}") for x in row) for row in norms)


def test_they_stay_in_the_process_that_reports(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "model", tiny_model(hidden_size=64))
    (tmp_path / "text.txt").write_text(planted_text())
    options = {"corpus": str(tmp_path / "text.txt"), "block_size": 32}
    policy = load_policy(None, options=options)
    plan = make_plan([str(folder)], policy, Context(root=tmp_path / "store"))
    (planned,) = plan.checkpoints
    assert planned.model_profile.values is not None
    (handed_on,) = type(plan).from_json(plan.to_json()).checkpoints
    assert handed_on.model_profile.values is None


@pytest.mark.parametrize(
    "value",
    [
        {},
        [],
        {"a": []},
        [[]],
        {"rows": [[1.5, "inf", -2], [True, None, 3]], "names": ["x\n", "[1, 2]", '"']},
        [{"a": {"b": [[1], [[2, 3], ["c"]]]}}, None, "d"],
    ],
)
def test_the_report_has_a_line_for_every_row_of_numbers(value: Any) -> None:
    text = laid_out({"value": value})
    assert json.loads(text) == {"value": value}
    assert text.endswith("}\n")
    assert laid_out({"a": [1, 2], "b": ["c", "d"]}) == (
        '{\n  "a": [1, 2],\n  "b": [\n    "c",\n    "d"\n  ]\n}\n'
    )
