"""What the callback logs, as the trackers that the Trainer reports to hold it after a training."""

from pathlib import Path
from typing import Any

import pytest

from robustness.integrations.transformers import OutlierCallback
from tests.integrations.test_outlier_callback import PLANTED, planted_model
from tests.support.checkpoints.trainings import trainer_of

STEPS = [0, 2, 4]
"""Before the first step, every two, and after the last."""


def test_tensorboard_holds_what_was_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard", reason="needs tensorboard (tox -e trackers)")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    trainer = trainer_of(planted_model(), tmp_path, max_steps=4, report_to="tensorboard")
    callback = OutlierCallback(every_n_steps=2, tracked=[1]).attach(trainer)
    trainer.train()
    (file,) = (tmp_path / "events").rglob("events.out.tfevents.*")
    events: Any = EventAccumulator(str(file))
    events.Reload()

    def logged(name: str) -> dict[int, float]:
        return {event.step: event.value for event in events.Scalars(f"train/outliers/{name}")}

    assert logged("count") == dict.fromkeys(STEPS, 1.0)
    assert set(logged("dim1/z_bias")) == set(STEPS)
    assert set(logged("largest_z")) == set(STEPS)
    found = logged(f"dim{PLANTED}/z_scale")
    for reading in callback.readings:
        name = f"outliers/dim{PLANTED}/z_scale"
        assert found[reading.step] == pytest.approx(reading.metrics()[name], rel=1e-6)
