"""Reduced precision: what is computed in it, what it costs; verdicts stay those of float32."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from robustness.ablation.ablation import Ablation
from robustness.ablation.hooks import ablated
from robustness.ablation.interventions import FixedAblation, Intact
from robustness.anatomy.anatomy import trace_anatomy
from robustness.checks.statistic import Degradation, EffectFactor
from robustness.measurement.evidence import COMPARED_CHUNKS, intervention_evidence
from robustness.policy.policy import load_policy
from robustness.run.plan import RunPlan
from robustness.run.planning import make_plan
from robustness.runtime import devices
from robustness.runtime.devices import chosen_dtype
from robustness.scoring.block import causal_block
from robustness.scoring.forward import Scorer
from robustness.scoring.scoring_plan import CHUNK_BLOCKS
from robustness.statistics.decisions import reduced_precision
from robustness.statistics.draw_decisions import decide_factor, decide_median
from robustness.store.context import Context
from robustness.vetting import Vetting
from tests.support.checkpoints.planted import PLANTED, save_planted
from tests.support.checkpoints.tiny_models import tiny_inputs, tiny_model

ERROR = np.random.default_rng(1).normal(0.02, 0.1, 32)


# --- in which precision --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("fpu avx512f avx512_bf16", "bfloat16"),
        ("fpu amx_bf16 amx_tile", "bfloat16"),
        ("fpu avx2 avx512f", "float32"),  # only emulates it
    ],
)
def test_auto_goes_by_what_the_processor_says(
    flags: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nmodel name\t: X\nflags\t\t: {flags}\nbogomips\t: 1\n")
    features = devices._processor_features(cpuinfo)
    monkeypatch.setattr(devices, "_processor_features", lambda: features)
    assert chosen_dtype("auto", "cpu") == expected


def test_a_system_that_does_not_tell_has_no_features(tmp_path: Path) -> None:
    assert devices._processor_features(tmp_path / "nothing") == []
    assert chosen_dtype("auto", "mps") == "float32"
    assert [chosen_dtype(choice, "cpu") for choice in ("float32", "bfloat16")] == [
        "float32",
        "bfloat16",
    ]


@pytest.mark.parametrize("kind", ["bert", "llama", "gpt2", "gemma2"])
def test_layers_run_in_bfloat16_and_logits_in_float32(kind: str) -> None:
    model: Any = tiny_model(kind)
    blocks = [causal_block(np.arange(5, 5 + length)) for length in (20, 12)]
    full = Scorer(model).nll_nats(blocks)
    dtypes_seen: dict[str, set[torch.dtype]] = {"head": set(), "layers": set()}
    head = model.get_output_embeddings()
    handles = [
        module.register_forward_hook(
            lambda module, _, output: dtypes_seen["head" if module is head else "layers"].add(
                output.dtype
            )
        )
        for module in model.modules()
        if isinstance(module, torch.nn.Linear)
    ]
    scorer = Scorer(model, dtype="bfloat16")
    reduced = scorer.nll_nats(blocks)
    scorer.most_positions = 3
    sliced = scorer.nll_nats(blocks)
    for handle in handles:
        handle.remove()
    assert dtypes_seen["head"] == {torch.float32}
    assert kind == "gpt2" or torch.bfloat16 in dtypes_seen["layers"]  # GPT-2 has no nn.Linear
    assert not np.array_equal(reduced, full)
    np.testing.assert_allclose(reduced, full, rtol=0.02)
    np.testing.assert_allclose(sliced, reduced, rtol=1e-5)
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    assert not head._forward_pre_hooks
    assert not head._forward_hooks
    np.testing.assert_array_equal(Scorer(model).nll_nats(blocks), full)


def test_an_ablated_feature_is_zero_in_bfloat16_too() -> None:
    model = tiny_model("bert")
    stack = trace_anatomy(model, tiny_inputs("bert")).stack
    outputs = []
    for site in {site.module for site in stack.sites}:
        model.get_submodule(site).register_forward_hook(lambda *args: outputs.append(args[2]))
    with ablated(model, stack, Ablation(dims=(3,))):
        model_sites = [model.get_submodule(site.module) for site in stack.sites]
        handles = [
            module.register_forward_hook(lambda *args: outputs.append(args[2]))
            for module in model_sites
        ]
        outputs.clear()
        Scorer(model, dtype="bfloat16").nll_nats([causal_block(np.arange(5, 25))])
        for handle in handles:
            handle.remove()
    after = outputs[1::2]  # each site's second hook comes after the ablation's
    assert len(after) == stack.n_layers
    assert all((output[..., 3] == 0).all() and (output != 0).any() for output in after)


# --- what it costs -------------------------------------------------------------------------------


def test_the_distance_of_draws_is_that_of_the_typical_one() -> None:
    full, tokens = np.full(32, 1.0), np.full(32, 100)
    full[:3] = 1000.0  # heavy-tailed: the mean lies on the other side
    found = reduced_precision(full + ERROR, full, tokens, threshold=1.1, of_draws=True)
    assert found.distance_nats == pytest.approx(abs(1.0 - 100 * math.log(1.1)))
    assert (
        found.slack_nats == reduced_precision(full + ERROR, full, tokens, threshold=1.1).slack_nats
    )
    assert not found.needs_float32


def test_draws_within_the_slack_of_the_threshold_decide_nothing() -> None:
    tokens = np.full(200, 100)
    below = np.full(200, 100 * (math.log(1.1) - 0.01))
    looks = {
        slack: decide_median(below, tokens, threshold=1.1, alpha=0.01, slack=slack)
        for slack in (0.0, 0.005, 0.02)
    }
    assert [look.side for look in looks.values()] == ["below", "below", None]
    narrow, _, wide = (look.interval for look in looks.values())
    assert narrow
    assert wide == pytest.approx((narrow[0] * math.exp(-0.02), narrow[1] * math.exp(0.02)))


def test_the_effect_factor_needs_what_the_slack_leaves() -> None:
    rng = np.random.default_rng(0)
    joint, control = rng.normal(10, 0.1, 256), rng.normal(1, 0.1, 256)
    options: dict[str, Any] = {"factor": 5.0, "alpha": 0.01, "draws": np.arange(256) // 2}
    assert decide_factor(joint, control, **options).side == "above"
    assert decide_factor(joint, control, slack_nats=(4.0, 0.0), **options).side == "above"
    assert decide_factor(joint, control, slack_nats=(5.5, 0.0), **options).side is None
    assert decide_factor(joint, control, slack_nats=(0.0, 11.0), **options).side is None


@pytest.mark.parametrize("column", ["joint", "delta"])
@pytest.mark.parametrize("infinite", [0, 1])
def test_infinite_nats_leave_the_effect_factor_to_float32(column: str, infinite: int) -> None:
    statistic = EffectFactor(factor=5.0, alpha=0.01, max_draws=8)
    both: list[dict[str, Any]] = [
        {"joint": np.full(32, 10.0), "delta": np.full(32, 1.0), "tokens": np.full(32, 100)}
        for _ in range(2)
    ]
    assert not any(cost.needs_float32 for cost in statistic.costs(*both))
    both[infinite][column][3] = math.inf
    costs = statistic.costs(*both)
    assert [(cost.slack_nats, cost.distance_nats) for cost in costs] == [(math.inf, math.inf)] * 2
    assert all(cost.needs_float32 for cost in costs)


# --- whole checks --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> RunPlan:
    root = tmp_path_factory.mktemp("planted")
    folder, text = save_planted(root)
    policy = load_policy(None, options={"corpus": str(text), "block_size": 32, "dtype": "bfloat16"})
    return make_plan([str(folder)], policy, Context(root=root / "store"))


def _vetting(planned: RunPlan, **changed: Any) -> Vetting:
    (only,) = planned.checkpoints
    settings = only.settings.model_copy(update=changed)
    return Vetting(
        checkpoint=only.load(), settings=settings, context=Context(root=planned.store_root)
    )


def test_a_plan_carries_the_precision_to_the_workers(planned: RunPlan) -> None:
    assert planned.checkpoints[0].dtype == "bfloat16"
    assert RunPlan.from_json(planned.to_json()) == planned


def test_numbers_of_two_precisions_are_kept_apart(planned: RunPlan) -> None:
    measurement = _vetting(planned).measurement
    interventions = Intact(), FixedAblation(ablation=Ablation(dims=(PLANTED,)))
    full = measurement.chunk(0, *interventions)
    reduced = measurement.chunk(0, *interventions, dtype="bfloat16")
    assert not np.array_equal(full[0].nll_nats, reduced[0].nll_nats)
    np.testing.assert_allclose(reduced[0].nll_nats, full[0].nll_nats, rtol=0.01)
    again = _vetting(planned, dtype="float32").measurement.chunk(0, *interventions)
    np.testing.assert_array_equal(again[0].nll_nats, full[0].nll_nats)


def test_what_the_first_text_blocks_decide_is_never_measured_in_bfloat16(planned: RunPlan) -> None:
    verdict = _vetting(planned).ablate(5).is_harmless(within=1.5)
    assert verdict
    assert verdict.seen == COMPARED_CHUNKS * CHUNK_BLOCKS
    assert verdict.details.precision is None


def test_every_verdict_is_that_of_float32(planned: RunPlan) -> None:
    def decided(dtype: str) -> list[Any]:
        vetting = _vetting(planned, dtype=dtype, exhaustive=True)
        joint = vetting.ablate(PLANTED)
        return [
            vetting.intact().beats_uniform_guess(),
            joint.degrades(by=1.05),
            joint.is_harmless(within=1.1),
            joint.matters_more_than_chance(),
            vetting.ablate_random(1).is_harmless(within=1.1),
        ]

    full, reduced = decided("float32"), decided("bfloat16")
    assert [verdict.outcome for verdict in reduced] == [verdict.outcome for verdict in full]
    assert [v.seen for v in reduced] == [v.seen for v in full]
    for one, other in zip(full, reduced, strict=True):
        assert one.details.precision is None
        assert other.details.precision.dtype == "bfloat16"
        slacks = [each.slack_nats for each in other.details.precision.costs]
        assert all(0 <= slack < 1 for slack in slacks)
        assert not other.exact
        assert other.measured == pytest.approx(one.measured, rel=0.01)
    low, high = reduced[1].interval
    assert low < full[1].measured < high


def test_a_threshold_too_near_for_bfloat16_is_decided_in_float32(planned: RunPlan) -> None:
    vetting = _vetting(planned, exhaustive=True)
    exact = _vetting(planned, dtype="float32", exhaustive=True).ablate(PLANTED).degrades(by=1.05)
    assert exact.exact
    assert exact.measured
    verdict = vetting.ablate(PLANTED).degrades(by=exact.measured * (1 - 1e-6))
    assert verdict
    assert verdict.exact
    assert verdict.measured == exact.measured


def test_what_reduced_precision_leaves_open_at_the_end_is_measured_in_float32(
    planned: RunPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A threshold that is far from the first text blocks' ratio, and near that of the corpus."""
    monkeypatch.setattr("robustness.statistics.figures.NEAR", math.inf)
    exact = _vetting(planned, dtype="float32", exhaustive=True).ablate(PLANTED).degrades(by=1.05)
    assert exact.measured
    verdict = _vetting(planned).ablate(PLANTED).degrades(by=exact.measured * (1 + 1e-6))
    assert not verdict
    assert verdict.exact
    assert verdict.measured == exact.measured


def test_evidence_says_what_was_compared(planned: RunPlan) -> None:
    measurement = _vetting(planned).measurement
    intervention = FixedAblation(ablation=Ablation(dims=(PLANTED,)))
    judge = Degradation(threshold=1.05, alpha=0.01)
    found = list(intervention_evidence(measurement, [intervention], judge))
    assert [each.precision for each in found[:COMPARED_CHUNKS]] == [None] * COMPARED_CHUNKS
    error, full, tokens = [], [], []
    for index in range(COMPARED_CHUNKS):
        one = measurement.chunk(index, Intact(), intervention)
        other = measurement.chunk(index, Intact(), intervention, dtype="bfloat16")
        full += (one[1].nll_nats - one[0].nll_nats).tolist()
        error += (other[1].nll_nats - other[0].nll_nats).tolist()
        tokens += one[0].tokens.tolist()
    precision = found[-1].precision
    assert precision is not None
    assert precision.costs == (reduced_precision(error, full, tokens, threshold=1.05),)
    later = slice(COMPARED_CHUNKS * CHUNK_BLOCKS, (COMPARED_CHUNKS + 1) * CHUNK_BLOCKS)
    intact, ablation = measurement.chunk(COMPARED_CHUNKS, Intact(), intervention, dtype="bfloat16")
    np.testing.assert_array_equal(found[-1]["delta"][later], ablation.nll_nats - intact.nll_nats)
