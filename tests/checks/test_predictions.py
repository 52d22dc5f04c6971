"""Changed predictions, counted again by plain loops over models without the dimensions."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from robustness.ablation.ablation import Ablation
from robustness.ablation.interventions import FixedAblation, Intact
from robustness.checkpoint.resolving import resolve
from robustness.checks.planned import PlannedCheck
from robustness.errors import MeasurementError
from robustness.policy.policy import load_policy
from robustness.scoring.block import ScoredBlock
from robustness.statistics.decisions import decide_share
from robustness.store.context import Context
from robustness.vetting import Vetting
from tests.measurement.test_architectures_end_to_end import tokenizer
from tests.support.checkpoints.checkpoint_folders import save_checkpoint
from tests.support.checkpoints.tiny_models import tiny_model

DIMS = (3, 7)
Make = Callable[..., Vetting]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A tiny model of an architecture on random words."""
    text = tmp_path / "text.txt"
    rng = np.random.default_rng(0)
    text.write_text(" ".join(f"w{n}" for n in rng.integers(0, 50, 1200)))

    def vetting(architecture: str, **options: Any) -> Vetting:
        folder = tmp_path / architecture
        if not folder.exists():
            words = tokenizer(sentinels="t5" in architecture)
            save_checkpoint(folder, tiny_model(architecture, n_layers=3), words)
        given = {"corpus": str(text), "block_size": 24, **options}
        return Vetting(
            checkpoint=resolve(str(folder), cache=tmp_path / "store"),
            settings=load_policy(None, options=given).settings(architecture),
            context=Context(root=tmp_path / "store"),
        )

    return vetting


def _zeroed(model: Any) -> Any:
    """The same model with what writes the dimensions at the end of every layer set to 0."""
    ends = {
        "bert.encoder.layer": ("output.LayerNorm", True),
        "model.decoder.layers": ("final_layer_norm", True),  # BART's
        "model.layers": ("mlp.down_proj", False),
        "decoder.block": ("layer.2.DenseReluDense.wo", False),
    }
    (place,) = [name for name in ends if name in dict(model.named_modules())]
    writer, has_bias = ends[place]
    with torch.no_grad():
        for layer in model.get_submodule(place):
            module = layer.get_submodule(writer)
            module.weight[list(DIMS)] = 0
            if has_bias:
                module.bias[list(DIMS)] = 0
    return model


def _predicted(model: Any, row: ScoredBlock) -> NDArray[np.int64]:
    """The first of the largest logits at every scored position, one row at a time."""
    inputs = {"input_ids": torch.tensor(row.ids)[None]}
    if row.decoder_target is not None:
        target = torch.tensor(row.decoder_target)[None]
        inputs["decoder_input_ids"] = model.prepare_decoder_input_ids_from_labels(target)
    with torch.no_grad():
        logits = model(**inputs).logits[0].double().numpy()
    return np.array([int(np.argmax(logits[position])) for position in row.positions])


@pytest.mark.parametrize("architecture", ["bert", "llama", "bart", "t5"])
def test_they_are_those_of_a_plain_loop(architecture: str, make: Make) -> None:
    vetting = make(architecture)
    measurement = vetting.measurement
    counted = measurement.changed_predictions(0, FixedAblation(ablation=Ablation(dims=DIMS)))
    intact, ablated = vetting.checkpoint.load_model(), _zeroed(vetting.checkpoint.load_model())
    rows = measurement.scoring_plan.chunk(0).rows
    plain = [int((_predicted(intact, row) != _predicted(ablated, row)).sum()) for row in rows]
    assert counted.tolist() == plain
    assert sum(plain) > 0


def test_nothing_changes_where_nothing_is_done(make: Make) -> None:
    counted = make("bert").measurement.changed_predictions(0, Intact())
    assert not counted.any()


def test_a_pseudo_log_likelihood_counts_every_row_of_a_text_block(make: Make) -> None:
    measurement = make("bert", masking="pll").measurement
    chunk = measurement.scoring_plan.chunk(0)
    counted = measurement.changed_predictions(0, FixedAblation(ablation=Ablation(dims=DIMS)))
    assert len(chunk.rows) > chunk.n_blocks == len(counted)
    assert (counted <= chunk.tokens).all()


def test_logits_that_are_no_numbers_predict_nothing(make: Make) -> None:
    vetting = make("bert")
    model = vetting.checkpoint.load_model()
    with torch.no_grad():
        model.bert.encoder.layer[1].output.LayerNorm.weight[0] = float("nan")
    measurement = vetting.measurement
    execution = measurement._execution
    execution.load_model = lambda: model
    with pytest.raises(MeasurementError, match="not numbers"):
        measurement.changed_predictions(0, FixedAblation(ablation=Ablation(dims=DIMS)))


@pytest.mark.parametrize(
    ("expectation", "limits", "outcome"),
    [
        ("paper", {"min_share": 1e-6}, "pass"),
        ("paper", {"min_share": 1.0}, "fail"),
        ("hardened", {"max_share": 1.0}, "pass"),
        ("hardened", {"max_share": 1e-6}, "fail"),
    ],
)
def test_the_expectation_decides_what_passes(
    expectation: str, limits: dict[str, float], outcome: str, make: Make
) -> None:
    name = "ablation_changes_predictions"
    checks = {name: {"enabled": True, **limits}}
    vetting = make("bert", expectation=expectation, checks=checks, exhaustive=True)
    verdict = vetting.decide(PlannedCheck(check=name, dims=DIMS), alpha=0.01)
    assert verdict.outcome == outcome
    assert verdict.measure == "share"
    assert verdict.exact
    measurement, fixed = vetting.measurement, FixedAblation(ablation=Ablation(dims=DIMS))
    chunks = range(measurement.n_chunks)
    changed = sum(int(measurement.changed_predictions(index, fixed).sum()) for index in chunks)
    scored = sum(int(measurement.chunk(index, Intact())[0].tokens.sum()) for index in chunks)
    assert verdict.measured == pytest.approx(changed / scored)
    assert verdict.tokens == scored
    assert verdict.history[-1].measured == verdict.measured
    assert verdict.details.intact is not None


counts = st.lists(
    st.integers(1, 30).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))),
    min_size=1,
    max_size=80,
)


@given(blocks=counts, threshold=st.floats(0.01, 0.99))
def test_a_share_is_exact_at_the_end_and_undecided_at_the_beginning(
    blocks: list[tuple[int, int]], threshold: float
) -> None:
    changed, scored = zip(*blocks, strict=True)
    share = sum(changed) / sum(scored)
    end = decide_share(changed, scored, threshold=threshold, alpha=0.01, exhausted=True)
    assert end.side == ("above" if end.measured >= threshold else "below")
    assert end.measured == pytest.approx(share)
    assert (end.interval, end.exact) == (None, True)
    early = decide_share(changed, scored, threshold=threshold, alpha=0.01)
    if len(blocks) < 32:
        assert (early.side, early.interval) == (None, None)
        return
    assert early.interval is not None
    low, high = early.interval
    assert 0 <= low <= early.measured <= high <= 1
    if early.side == "above":
        assert low >= threshold
    if early.side == "below":
        assert high <= threshold


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_a_threshold_that_is_no_share_is_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        decide_share([1], [2], threshold=threshold, alpha=0.01)
