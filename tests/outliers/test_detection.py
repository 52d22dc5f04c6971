"""Rules applied to whole checkpoints: what is loaded, what is kept, and what refuses."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from robustness.checkpoint.checkpoint import Checkpoint
from robustness.checkpoint.resolving import resolve
from robustness.errors import RuleError, UnsupportedSite
from robustness.outliers.rules import RULES
from robustness.policy.policy import load_policy
from robustness.policy.settings import Settings
from robustness.store.context import Context
from robustness.vetting import Vetting
from tests.support.checkpoints.checkpoint_folders import save_checkpoint, tiny_model
from tests.support.checkpoints.planted import planted_text

PLANTED, CONSTANT = 5, 400.0
ON_ACTIVATIONS = ("llm-int8", "massive", "kurtosis")


def bert_with_massive_dimension() -> Any:
    """Every output norm writes a constant into one dimension, and its scale there is 0."""
    model = tiny_model(hidden_size=64, num_hidden_layers=4)
    with torch.no_grad():
        for layer in model.bert.encoder.layer:
            for norm in (layer.attention.output.LayerNorm, layer.output.LayerNorm):
                norm.weight.normal_(1, 0.01)
                norm.bias.normal_(0, 0.01)
                norm.bias[PLANTED] = CONSTANT
                norm.weight[PLANTED] = 0
    return model


@pytest.fixture
def bert(tmp_path: Path) -> Checkpoint:
    folder = save_checkpoint(tmp_path / "model", bert_with_massive_dimension())
    (tmp_path / "text.txt").write_text(planted_text())
    return resolve(str(folder), cache=tmp_path / "store")


def settings(tmp_path: Path, **options: Any) -> Settings:
    given = {"corpus": str(tmp_path / "text.txt"), "block_size": 32, **options}
    return load_policy(None, options=given).settings("model")


def vetting(
    checkpoint: Checkpoint,
    tmp_path: Path,
    progress: Callable[[str], None] = lambda _: None,
    **options: Any,
) -> Vetting:
    return Vetting(
        checkpoint=checkpoint,
        settings=settings(tmp_path, **options),
        context=Context(root=tmp_path / "store", progress=progress),
    )


def _refuse_to_load(*_: object, **__: object) -> None:
    raise AssertionError("the model was loaded")


def test_every_rule_can_be_asked(bert: Checkpoint, tmp_path: Path) -> None:
    asked = vetting(bert, tmp_path, rules={"massive": {"median_factor": 100.0}})
    for name in RULES:
        if name == "super-weight":
            with pytest.raises(UnsupportedSite, match="normalisation writes it"):
                asked.outliers(rule=name)
        else:
            expected = () if name == "variance" else (PLANTED,)  # a constant does not vary
            found = asked.outliers(rule=name)
            assert PLANTED in expected or PLANTED not in found.dims
            assert set(expected) <= set(found.dims)
            assert repr(found).startswith(f"<{name}: ")


def test_rules_on_weights_never_load_the_model(
    bert: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Checkpoint, "load_model", _refuse_to_load)
    found = vetting(bert, tmp_path, rule=["busters", "puccetti"]).model_profile
    assert [detection.dims for detection in found.detections] == [(PLANTED,), (PLANTED,)]
    with pytest.raises(AssertionError, match="the model was loaded"):
        vetting(bert, tmp_path, rule="massive").outliers()


def test_several_rules_share_one_model_and_one_reading(
    bert: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []
    load_model = Checkpoint.load_model

    def counted(self: Checkpoint, **options: Any) -> Any:
        loaded.append(self.label)
        return load_model(self, **options)

    monkeypatch.setattr(Checkpoint, "load_model", counted)
    lines: list[str] = []
    rules = ["massive", "busters", "variance", "kurtosis", "llm-int8"]
    found = vetting(bert, tmp_path, progress=lines.append, rule=rules).model_profile
    assert [detection.name for detection in found.detections] == rules
    assert found.detection.name == "massive"
    assert len(loaded) == 1
    readings = [line for line in lines if line == "8/8 text blocks read"]
    assert len(readings) == 2  # behind the layers, and at their dense inputs


def test_what_was_found_is_kept_until_something_else_is_asked(
    bert: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = vetting(bert, tmp_path, rule="kurtosis").model_profile
    monkeypatch.setattr(Checkpoint, "load_model", _refuse_to_load)
    assert vetting(bert, tmp_path, rule="kurtosis").model_profile == first
    (tmp_path / "other.txt").write_text(planted_text() + " w1")
    for change in (
        {"corpus": str(tmp_path / "other.txt")},
        {"seed": 1},
        {"block_size": 16},
        {"rules": {"text_blocks": 9}},
        {"rules": {"kurtosis": {"n_std": 4.0}}},
    ):
        with pytest.raises(AssertionError, match="the model was loaded"):
            vetting(bert, tmp_path, rule="kurtosis", **change).outliers()


def test_the_first_rule_decides_what_is_ablated(bert: Checkpoint, tmp_path: Path) -> None:
    for rules in (["variance", "busters"], ["busters", "variance"]):
        asked = vetting(bert, tmp_path, rule=rules)
        model_profile = asked.model_profile
        assert model_profile.detection.name == rules[0]
        assert asked.outliers().dims == model_profile.detection.dims
        assert asked.outliers(rule=rules[1]).dims == model_profile.compared[0].dims
        assert type(model_profile).from_dict(model_profile.to_dict()) == model_profile
        n_outliers = len(model_profile.detection.dims)
        assert len(model_profile.detection.magnitude) == 64 - n_outliers


def test_the_number_of_text_blocks_is_a_setting(bert: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(RuleError, match="only one"):
        vetting(bert, tmp_path, rule="variance", rules={"text_blocks": 1}).outliers()
    asked = vetting(bert, tmp_path, rule="variance", rules={"text_blocks": 20})
    assert asked.outliers().detection.details["text_blocks"] == 20
