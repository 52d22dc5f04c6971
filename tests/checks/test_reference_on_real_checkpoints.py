"""A real checkpoint beside damaged copies of it, measured again by plain loops of transformers."""

import math
import shutil
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from robustness.measurement.compared import ComparedMeasurement
from robustness.policy.policy import Policy
from robustness.run.planning import make_plan
from robustness.store.context import Context
from robustness.vetting import Vetting
from tests.support.checkpoints.checkpoint_folders import edit_tensors
from tests.support.checkpoints.shared import shared_data, shared_model

NAME = "sapiens-roberta-vl"
CHUNKS = 8


def zero_last_values(tensors: dict[str, Any]) -> None:
    for name in tensors:
        if ".layer.3.attention.self.value." in name:
            tensors[name] = tensors[name] * 0


def noise(tensors: dict[str, Any]) -> None:
    generator = np.random.default_rng(0)
    for name, tensor in tensors.items():
        tensors[name] = tensor * (1 + 0.1 * generator.standard_normal(tensor.shape))


@pytest.fixture(scope="module", params=[zero_last_values, noise], ids=["dead values", "noise"])
def vetting(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Vetting:
    folder = tmp_path_factory.mktemp("candidate") / "candidate"
    shutil.copytree(shared_model(NAME), folder)
    edit_tensors(folder, request.param)
    policy = Policy(options={"corpus": str(shared_data("antibody-light.fa"))})
    context = Context(root=tmp_path_factory.mktemp("store"))
    plan = make_plan([str(folder)], policy, context, against=str(shared_model(NAME)))
    (planned,) = plan.checkpoints
    return planned.vetting(context)


@pytest.fixture(scope="module")
def loop(vetting: Vetting) -> dict[str, NDArray[np.float64]]:
    """NLLs of both, changed predictions and divergences per text block, one row at a time."""
    candidate, reference = (
        checkpoint.load_model() for checkpoint in (vetting.checkpoint, _reference(vetting))
    )
    found: dict[str, list[float]] = {name: [] for name in ("nll", "then", "changed", "kl", "n")}
    for index in range(CHUNKS):
        for row in vetting.measurement.scoring_plan.chunk(index).rows:
            with torch.no_grad():
                logits = [
                    model(input_ids=torch.tensor(row.ids)[None]).logits[0].double().numpy()
                    for model in (candidate, reference)
                ]
            q, p = (_log_softmax(each[row.positions]) for each in logits)
            at = np.arange(len(row.targets))
            found["nll"].append(-q[at, row.targets].sum())
            found["then"].append(-p[at, row.targets].sum())
            found["changed"].append((q.argmax(1) != p.argmax(1)).sum())
            found["kl"].append((np.exp(p) * (p - q)).sum())
            found["n"].append(len(at))
    return {name: np.array(values, dtype=np.float64) for name, values in found.items()}


def _reference(vetting: Vetting) -> Any:
    checkpoint = vetting.reference_numbers.checkpoint
    assert checkpoint is not None
    return checkpoint


def _log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = logits - logits.max(1, keepdims=True)
    normalised: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return normalised


def test_every_number_is_that_of_a_plain_loop(
    vetting: Vetting, loop: dict[str, NDArray[np.float64]]
) -> None:
    measurement = vetting.measurement
    assert isinstance(measurement, ComparedMeasurement)
    chunks = [measurement.compared(index) for index in range(CHUNKS)]
    changed = np.concatenate([chunk.changed for chunk in chunks])
    kl = np.concatenate([chunk.kl_nats for chunk in chunks])
    np.testing.assert_array_equal(changed, loop["changed"])
    np.testing.assert_allclose(kl, loop["kl"], rtol=1e-3, atol=1e-4)
    assert changed.sum() > 0
    assert not np.concatenate([chunk.lost_nats for chunk in chunks]).any()  # 25 tokens


def test_verdicts_show_what_the_loop_gives(
    vetting: Vetting, loop: dict[str, NDArray[np.float64]]
) -> None:
    reference = vetting.reference
    verdicts = {
        "ratio": reference.keeps_perplexity(within=30.0),
        "share": reference.keeps_predictions(share=0.9),
        "divergence": reference.keeps_distributions(nats=9.0),
    }
    for measure, verdict in verdicts.items():
        assert verdict
        n = verdict.seen
        assert n <= 16 * CHUNKS
        tokens = loop["n"][:n].sum()
        sums = {name: values[:n].sum() for name, values in loop.items()}
        expected = {
            "ratio": math.exp((sums["nll"] - sums["then"]) / tokens),
            "share": sums["changed"] / tokens,
            "divergence": sums["kl"] / tokens,
        }[measure]
        assert verdict.measured == pytest.approx(expected, rel=1e-3)
        assert verdict.tokens == tokens
    figures = verdicts["ratio"].details.reference
    assert figures is not None
    n = verdicts["ratio"].seen
    assert figures.then == pytest.approx(
        math.exp(loop["then"][:n].sum() / loop["n"][:n].sum()), rel=1e-5
    )
