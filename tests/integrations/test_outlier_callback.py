"""Outlier dimensions while a model is being trained: real trainings of tiny models."""

import copy
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from robustness.anatomy.live import live_sites
from robustness.checkpoint.resolving import resolve
from robustness.errors import RobustnessError, RuleError, UnsupportedSite
from robustness.integrations.transformers import OutlierCallback, OutlierWarning
from robustness.outliers.rules.weights import busters
from robustness.policy.settings import Settings
from robustness.store.context import Context
from robustness.vetting import Vetting
from tests.support.checkpoints.checkpoint_folders import save_checkpoint, tiny_model
from tests.support.checkpoints.trainings import trainer_of

PLANTED = 5


class Reporter(TrainerCallback):
    """What TensorBoard and its like are to a Trainer."""

    def __init__(self) -> None:
        self.logged: list[tuple[int, dict[str, Any]]] = []

    def on_log(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        logs: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> None:
        self.logged.append((state.global_step, dict(logs or {})))

    def of(self, name: str) -> dict[int, float]:
        """Step to value."""
        return {step: logs[name] for step, logs in self.logged if name in logs}


def planted_model(**settings: Any) -> Any:
    """A BERT with an outlier dimension."""
    model = tiny_model(hidden_size=32, **settings)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for layer in model.bert.encoder.layer:
            norm = layer.output.LayerNorm
            norm.weight.add_(0.01 * torch.randn(32, generator=generator))
            norm.bias.add_(0.01 * torch.randn(32, generator=generator))
            norm.weight[PLANTED], norm.bias[PLANTED] = 3.0, -2.0
    return model


def test_training_goes_on_bit_by_bit_as_without_it(tmp_path: Path) -> None:
    """With dropout, gradient accumulation, evaluation modes and an optimizer with moments."""
    trained, losses = [], []
    for watched in (False, True):
        model = planted_model(hidden_dropout_prob=0.3)
        trainer = trainer_of(model, tmp_path, gradient_accumulation_steps=2)
        if watched:
            OutlierCallback(every_n_steps=2, tracked=[1]).attach(trainer)
        trainer.train()
        assert trainer.optimizer is not None
        moments = trainer.optimizer.state_dict()["state"]
        rng = torch.get_rng_state()
        trained.append((model.state_dict(), moments, rng))
        losses.append([e for e in trainer.state.log_history if "loss" in e])
    (weights, moments, rng), (watched_weights, watched_moments, watched_rng) = trained
    assert weights.keys() == watched_weights.keys()
    assert all(torch.equal(weights[name], watched_weights[name]) for name in weights)
    for number, state in moments.items():
        for name in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(state[name], watched_moments[number][name])
    assert torch.equal(rng, watched_rng)
    assert losses[0] == losses[1]
    assert [entry["step"] for entry in losses[0]] == [2, 4, 6]


def test_findings_reach_whatever_the_trainer_reports_to(tmp_path: Path) -> None:
    reporter = Reporter()
    model = planted_model()
    trainer = trainer_of(model, tmp_path, callbacks=[reporter], max_steps=5)
    callback = OutlierCallback(every_n_steps=2, tracked=[1]).attach(trainer)
    trainer.train()
    steps = [0, 2, 4, 5]  # before the first step, every two, after the last
    assert [reading.step for reading in callback.readings] == steps
    assert reporter.of("outliers/count") == dict.fromkeys(steps, 1.0)
    assert reporter.of(f"outliers/dim{PLANTED}/layers") == dict.fromkeys(steps, 2.0)
    z = reporter.of(f"outliers/dim{PLANTED}/z_scale")
    assert all(value > 3 for value in z.values())
    assert set(reporter.of("outliers/dim1/z_bias")) == set(steps)
    assert set(reporter.of("loss")) == {2, 4}  # none was lost to a reading at the same step
    history = [e["step"] for e in trainer.state.log_history if "outliers/count" in e]
    assert history == steps
    assert all(type(v) is float for _, logs in reporter.logged for n, v in logs.items() if "/" in n)


def test_z_scores_are_those_of_the_weights_at_that_step(tmp_path: Path) -> None:
    model = planted_model()
    trainer = trainer_of(model, tmp_path, max_steps=3)
    callback = OutlierCallback(every_n_steps=10, tracked=[1]).attach(trainer)
    trainer.train()
    last = callback.readings[-1]
    assert last.step == 3
    for number, layer in enumerate(model.bert.encoder.layer):
        for dim in (1, PLANTED):
            for parameter, found in (("weight", last.z_scale), ("bias", last.z_bias)):
                values = getattr(layer.output.LayerNorm, parameter).tolist()
                mean = sum(values) / 32
                std = (sum((v - mean) ** 2 for v in values) / 31) ** 0.5
                assert found is not None
                assert found[dim][number] == pytest.approx((values[dim] - mean) / std, rel=1e-9)


def test_a_reading_is_what_vetting_the_saved_checkpoint_finds(tmp_path: Path) -> None:
    model = planted_model()
    trainer = trainer_of(model, tmp_path / "run", max_steps=2)
    callback = OutlierCallback().attach(trainer)
    trainer.train()
    folder = save_checkpoint(tmp_path / "saved", model)
    checkpoint = resolve(str(folder), cache=tmp_path / "store")
    found = Vetting(
        checkpoint=checkpoint, settings=Settings(), context=Context(root=tmp_path / "store")
    )
    detection = found.model_profile.detection
    reading = callback.readings[-1]
    assert reading.rule == detection.rule
    assert reading.layers == {outlier.dim: outlier.layers for outlier in detection.outliers}
    assert reading.dims == (PLANTED,)


def test_it_can_stop_training(tmp_path: Path) -> None:
    trainer = trainer_of(tiny_model(hidden_size=32), tmp_path, max_steps=20)
    callback = OutlierCallback(every_n_steps=2, max_outliers=0, action="stop").attach(trainer)

    class Plant(TrainerCallback):
        def on_step_end(self, *_: Any, **kwargs: Any) -> None:
            if trainer.state.global_step == 5:
                kwargs["model"].load_state_dict(planted_model().state_dict())

    trainer.add_callback(Plant())
    with pytest.warns(OutlierWarning, match=f"step 6: dimension {PLANTED} stand.*training stops"):
        trainer.train()
    assert trainer.state.global_step == 6
    assert [reading.dims for reading in callback.readings] == [(), (), (), (PLANTED,)]


def test_it_can_warn_and_does_so_once(tmp_path: Path) -> None:
    trainer = trainer_of(planted_model(), tmp_path, max_steps=4)
    OutlierCallback(every_n_steps=1, max_outliers=0).attach(trainer)
    with pytest.warns(OutlierWarning, match="more than the 0 that this training may have") as seen:
        trainer.train()
    assert len(seen) == 1
    assert trainer.state.global_step == 4


def test_it_can_log_and_do_nothing_else(tmp_path: Path) -> None:
    trainer = trainer_of(planted_model(), tmp_path, max_steps=2)
    callback = OutlierCallback(every_n_steps=1, max_outliers=0, action="log").attach(trainer)
    trainer.train()
    assert callback.readings[-1].dims == (PLANTED,)


def test_the_limit_and_the_rule_are_the_policys(tmp_path: Path) -> None:
    settings = Settings.model_validate(
        {
            "rule": "puccetti",
            "rules": {"puccetti": {"variant": "paper"}},
            "checks": {"outliers_are_present": {"min": 0, "max": 0}},
        }
    )
    trainer = trainer_of(planted_model(), tmp_path, max_steps=1)
    callback = OutlierCallback(settings=settings).attach(trainer)
    with pytest.warns(OutlierWarning, match="puccetti: as the paper says"):
        trainer.train()
    assert callback.readings[-1].dims == (PLANTED,)


def test_a_resumed_training_tracks_what_was_tracked_before(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"save_strategy": "steps", "save_steps": 2, "max_steps": 2}
    trainer = trainer_of(planted_model(), tmp_path, **settings)
    OutlierCallback(every_n_steps=2, tracked=[3]).attach(trainer)
    trainer.train()
    resumed = trainer_of(planted_model(), tmp_path, **{**settings, "max_steps": 4})
    callback = OutlierCallback(every_n_steps=2).attach(resumed)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert [reading.step for reading in callback.readings] == [2, 4]
    assert set(callback.readings[-1].z_scale) == {3, PLANTED}


@pytest.mark.parametrize("options", [{"bf16": True}, {"torch_compile": True}])
def test_mixed_precision_and_compilation(options: dict[str, Any], tmp_path: Path) -> None:
    if "torch_compile" in options:
        options = {**options, "torch_compile_backend": "eager"}
    model = planted_model()
    trainer = trainer_of(model, tmp_path, max_steps=2, **options)
    callback = OutlierCallback(every_n_steps=1).attach(trainer)
    with warnings.catch_warnings():
        warnings.simplefilter("default")  # of libraries, about processors of this kind
        warnings.simplefilter("error", OutlierWarning)
        trainer.train()
    expected = live_sites(model).read()
    found = busters(expected.scale, expected.bias)
    assert callback.readings[-1].dims == found.dims == (PLANTED,)


def _begin(callback: OutlierCallback, *, main: bool) -> TrainerControl:
    """The first event of a training in one of several processes."""
    control = TrainerControl()
    state = TrainerState(is_world_process_zero=main, max_steps=10)
    arguments: Any = None
    callback.on_train_begin(arguments, state, control, model=planted_model())
    state.global_step = 10
    callback.on_step_end(arguments, state, control)
    return control


def test_other_processes_read_nothing(tmp_path: Path) -> None:
    callback = OutlierCallback(max_outliers=0).attach(trainer_of(planted_model(), tmp_path))
    _begin(callback, main=False)
    assert callback.readings == []


def test_all_processes_stop_together_and_one_logs(tmp_path: Path) -> None:
    trainer = trainer_of(planted_model(), tmp_path)
    callback = OutlierCallback(max_outliers=0, action="stop").attach(trainer)
    control = _begin(callback, main=False)  # any warning would be an error
    assert control.should_training_stop
    assert trainer.state.log_history == []
    with pytest.warns(OutlierWarning):
        control = _begin(callback, main=True)
    assert control.should_training_stop
    assert len(trainer.state.log_history) == 2


def test_diverging_weights_are_told_and_training_is_left_alone(tmp_path: Path) -> None:
    trainer = trainer_of(planted_model(), tmp_path, max_steps=3)
    callback = OutlierCallback(every_n_steps=1).attach(trainer)

    class Break(TrainerCallback):
        def on_step_begin(self, *_: Any, **kwargs: Any) -> None:
            with torch.no_grad():
                kwargs["model"].bert.encoder.layer[0].output.LayerNorm.weight[0] = np.nan

    trainer.add_callback(Break())
    with pytest.warns(OutlierWarning, match="step 1: .*not a finite number") as seen:
        trainer.train()
    assert len(seen) == 1
    assert trainer.state.global_step == 3
    assert [reading.step for reading in callback.readings] == [0]


def test_readings_keep_nothing_of_the_model(tmp_path: Path) -> None:
    trainer = trainer_of(planted_model(), tmp_path, max_steps=1)
    callback = OutlierCallback().attach(trainer)
    trainer.train()
    again = copy.deepcopy(callback.readings)
    assert again == callback.readings
    assert len(repr(again[-1])) < 2000
    assert callback._sites is None


def test_mistakes_are_told_before_the_first_step(tmp_path: Path) -> None:
    with pytest.raises(RuleError, match="rule massive reads activations"):
        OutlierCallback(settings=Settings.model_validate({"rule": "massive"}))
    with pytest.raises(ValueError, match="every_n_steps must be at least 1, not 0"):
        OutlierCallback(every_n_steps=0)
    wrong: Any = "cry"
    with pytest.raises(ValueError, match="log, warn, stop, not 'cry'"):
        OutlierCallback(action=wrong)
    trainer = trainer_of(planted_model(), tmp_path, callbacks=[OutlierCallback()])
    with pytest.raises(RobustnessError, match=r"call callback.attach\(trainer\)"):
        trainer.train()
    trainer = trainer_of(planted_model(), tmp_path)
    OutlierCallback(tracked=[32]).attach(trainer)
    with pytest.raises(UnsupportedSite, match="no dimension 32 to track"):
        trainer.train()
    assert trainer.state.global_step == 0
