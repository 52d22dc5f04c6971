"""Known truth: the suite measures what was planted, and decides as it must."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from robustness.ablation.ablation import Ablation
from robustness.anatomy.stacks import Anatomy
from robustness.errors import CheckpointError, UnsupportedSite
from robustness.policy.policy import load_policy
from robustness.run.plan import RunPlan
from robustness.run.planning import make_plan
from robustness.statistics.figures import LayerFigure
from robustness.store.context import Context
from robustness.vetting import Vetting
from tests.support.checkpoints.planted import (
    LAYERS,
    PLANTED,
    VOCABULARY,
    WIDTH,
    final_feature,
    head,
    save_planted,
)


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> RunPlan:
    root = tmp_path_factory.mktemp("planted")
    folder, text = save_planted(root)
    options = {"corpus": str(text), "block_size": 32}
    policy = load_policy(None, options=options)
    return make_plan([str(folder)], policy, Context(root=root / "store"))


@pytest.fixture(scope="module")
def vetting(planned: RunPlan) -> Vetting:
    (only,) = planned.checkpoints
    return Vetting(
        checkpoint=only.load(), settings=only.settings, context=Context(root=planned.store_root)
    )


def _known_perplexity(vetting: Vetting) -> float:
    """Of the constant prediction softmax(c·h), over all scored tokens of the corpus."""
    logits = final_feature() * np.array(head())
    log_probabilities = logits - np.log(np.exp(logits).sum())
    counts = Counter(
        token for ids in vetting.measurement.scoring_plan._blocks.ids for token in ids[1:].tolist()
    )
    nll = -sum(n * log_probabilities[token] for token, n in counts.items())
    return float(np.exp(nll / sum(counts.values())))


def test_the_rule_finds_the_planted_dimension(vetting: Vetting) -> None:
    assert vetting.outliers().dims == (PLANTED,)
    assert vetting.outliers()[0].layers == (0, 1, 2)


def test_intact_perplexity_is_the_known_value(vetting: Vetting) -> None:
    exhaustive = _exhaustive(vetting)
    verdict = exhaustive.intact().beats_uniform_guess()
    assert verdict
    assert verdict.details.intact is not None
    assert verdict.details.intact.perplexity == pytest.approx(_known_perplexity(vetting), rel=1e-5)


def _exhaustive(vetting: Vetting) -> Vetting:
    settings = vetting.settings.model_copy(update={"exhaustive": True})
    return Vetting(checkpoint=vetting.checkpoint, settings=settings, context=vetting.context)


def test_without_the_dimension_perplexity_is_the_vocabulary_size(vetting: Vetting) -> None:
    verdict = _exhaustive(vetting).ablate(PLANTED).degrades(by=1.05)
    assert verdict
    assert verdict.exact
    assert verdict.measured == pytest.approx(VOCABULARY / _known_perplexity(vetting), rel=1e-5)


def test_the_threshold_is_met_exactly_where_it_lies(vetting: Vetting) -> None:
    ratio = VOCABULARY / _known_perplexity(vetting)
    ablated = _exhaustive(vetting).ablate(PLANTED)
    assert ablated.degrades(by=ratio * 0.9999)
    assert not ablated.degrades(by=ratio * 1.0001)
    assert ablated.is_harmless(within=ratio * 1.0001)
    assert not ablated.is_harmless(within=ratio * 0.9999)


def test_every_other_dimension_is_harmless(vetting: Vetting) -> None:
    for dim in (0, 1, WIDTH - 1):
        assert _exhaustive(vetting).ablate(dim).is_harmless(within=1.000001).measured == 1
    control = vetting.ablate_random(1).is_harmless(within=1.1)
    assert control
    assert control.measured == 1
    assert vetting.ablate(PLANTED).matters_more_than_chance(factor=5)


def test_an_ablation_of_one_layer_leaves_the_others(vetting: Vetting) -> None:
    whole = _exhaustive(vetting).ablate(PLANTED).degrades(by=1.05)
    part = _exhaustive(vetting).ablate(PLANTED, layers=[1]).degrades(by=1.05)
    assert part.measured is not None
    assert whole.measured is not None
    assert 0.9 < part.measured < whole.measured


def test_a_feature_is_replaced_by_its_mean(vetting: Vetting) -> None:
    """What is planted is the same at every position, so that its mean is as good as itself."""
    exhaustive = _exhaustive(vetting)
    for site in ("output", "residual"):
        mean = exhaustive.ablate(PLANTED, site=site, mode="mean").is_harmless(within=1.001)
        assert mean.measured == pytest.approx(1, rel=1e-5)
        assert mean.statement.startswith(f"ablating dimension {PLANTED} (")
        zero = exhaustive.ablate(PLANTED, site=site).degrades(by=1.5)
        assert zero.measured == pytest.approx(VOCABULARY / _known_perplexity(vetting), rel=1e-5)
    assert vetting.ablate_random(1, mode="mean").is_harmless(within=1.1).measured == 1


def test_means_are_measured_once_and_stored(vetting: Vetting) -> None:
    vetting.ablate(PLANTED, mode="mean").is_harmless(within=1.1)
    (only,) = [
        path
        for path in vetting.context.root.rglob("*.json")
        if '"means":1' in path.read_text() and '"site":"output"' in path.read_text()
    ]
    before = only.stat().st_mtime_ns
    means = json.loads(only.read_text())["record"]["means"]
    assert [*means] == ["0", "1", "2"]
    for layer in means.values():
        assert len(layer) == WIDTH
        assert layer[PLANTED] > 0
    for layer, expected in _plain_means(vetting).items():
        np.testing.assert_allclose(means[layer], expected, rtol=1e-5, atol=1e-7)
    fresh = Vetting(
        checkpoint=vetting.checkpoint,
        settings=vetting.settings,
        context=vetting.context,
    )
    fresh.ablate(PLANTED, layers=[2], mode="mean").is_harmless(within=1.1)
    assert only.stat().st_mtime_ns == before


def _plain_means(vetting: Vetting) -> dict[str, Any]:
    """What the MLPs write, by a plain loop over the first 64 text blocks of the seeded order."""
    model = LlamaForCausalLM.from_pretrained(vetting.checkpoint.folder, dtype=torch.float32)
    written: dict[str, list[Any]] = {str(layer): [] for layer in range(LAYERS)}
    for number, layer in enumerate(model.model.layers):
        layer.mlp.register_forward_hook(
            lambda _, __, output, name=str(number): written[name].extend(
                output[0].double().tolist()
            )
        )
    for block in vetting.measurement.order[:64].tolist():
        with torch.no_grad():
            model(torch.tensor(vetting.measurement.scoring_plan._blocks.ids[block])[None])
    assert len(written["0"]) == 64 * 32  # all positions of all text blocks
    return {name: np.mean(np.array(rows), axis=0) for name, rows in written.items()}


def test_the_policys_site_and_layers_hold_where_nothing_else_is_said(vetting: Vetting) -> None:
    update = {"site": "residual", "mode": "mean", "layers": [1, 2]}
    chosen = Vetting(
        checkpoint=vetting.checkpoint,
        settings=vetting.settings.model_copy(update=update),
        context=vetting.context,
    )
    assert chosen.ablate(PLANTED).ablation == Ablation(
        dims=(PLANTED,), site="residual", mode="mean", layers=(1, 2)
    )
    other = chosen.ablate(PLANTED, site="output", mode="zero", layers=[0])
    assert other.ablation == Ablation(dims=(PLANTED,), layers=(0,))
    with pytest.raises(UnsupportedSite, match=r"'model' has no norm .* has 'output' and 'resid"):
        chosen.ablate(PLANTED, site="attention-norm")
    with pytest.raises(UnsupportedSite, match=r"no layer 3: .* from 0 to 2"):
        chosen.ablate(PLANTED, layers=[3])


def test_the_layer_profile_is_that_of_whole_runs(vetting: Vetting) -> None:
    exhaustive = _exhaustive(vetting)
    verdict = exhaustive.layer_sweep([PLANTED]).recorded()
    assert verdict
    assert verdict.exact
    for layer, found in enumerate(verdict.details.layers):
        whole = exhaustive.ablate(PLANTED, layers=[layer]).degrades(by=1.05)
        assert whole.measured is not None
        assert found == LayerFigure(layer=layer, ratio=whole.measured)  # to the bit
    ratios = [found.ratio for found in verdict.details.layers]
    largest = int(np.argmax(ratios))
    assert verdict.measured == max(ratios)
    assert verdict.reason.startswith(
        f"layer profile: largest x{max(ratios):.4g} in layer {largest}"
    )
    assert verdict.reason in verdict.explain()


def test_every_layer_has_to_stay_below(vetting: Vetting) -> None:
    profile = _exhaustive(vetting).layer_sweep([PLANTED])
    largest = profile.recorded().measured
    assert largest is not None
    assert profile.stays_below(largest * 1.0001)
    assert not profile.stays_below(largest * 0.9999)
    early = vetting.layer_sweep([PLANTED]).stays_below(0.5)
    assert early.outcome == "fail"
    assert early.seen == 32
    assert vetting.layer_sweep([0]).stays_below(1.01)
    assert vetting.layer_sweep([PLANTED]).recorded().seen == 64


def test_where_no_layer_can_be_skipped_all_of_them_run(vetting: Vetting) -> None:
    """The same numbers, from whole forward passes."""
    anatomy = vetting.model_profile.anatomy
    stack = replace(anatomy.stack, resumable=False)
    record = Anatomy(stacks=(stack,)).to_dict()
    slow = Vetting(
        checkpoint=vetting.checkpoint,
        settings=vetting.settings,
        model_profile=replace(vetting.model_profile, anatomy_record=record),
        context=vetting.context,
    )
    for site, mode in (("output", "zero"), ("residual", "mean")):
        profiles = [
            one.layer_sweep([PLANTED, 3], site=site, mode=mode).recorded()
            for one in (slow, vetting)
        ]
        assert profiles[0] == profiles[1]


def test_early_verdicts_are_those_of_the_whole_corpus(vetting: Vetting) -> None:
    for threshold in (1.05, 1.5, 3.0):
        early = vetting.ablate(PLANTED).degrades(by=threshold)
        exact = _exhaustive(vetting).ablate(PLANTED).degrades(by=threshold)
        assert early.outcome == exact.outcome
        assert early.seen < exact.seen


def test_a_checkpoint_that_changes_while_it_is_vetted_leaves_nothing_behind(
    tmp_path: Path,
) -> None:
    folder, text = save_planted(tmp_path)
    policy = load_policy(None, options={"corpus": str(text), "block_size": 32})
    (only,) = make_plan([str(folder)], policy, Context(root=tmp_path / "store")).checkpoints
    late = Vetting(
        checkpoint=only.load(), settings=only.settings, context=Context(root=tmp_path / "store")
    )
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-4] + b"\0\0\0\0")
    with pytest.raises(CheckpointError, match="changed while it was vetted"):
        late.ablate(PLANTED).degrades(by=1.05)
    assert not [
        path for path in (tmp_path / "store").rglob("*.json") if b"nll_nats" in path.read_bytes()
    ]


def test_exhaustive_controls_measure_the_whole_corpus_whatever_max_draws(vetting: Vetting) -> None:
    checks: Any = vetting.settings.checks
    few = checks.random_ablation_is_harmless.model_copy(update={"max_draws": 4})
    checks = checks.model_copy(update={"random_ablation_is_harmless": few})
    verdicts = []
    for exhaustive in (False, True):
        update = {"checks": checks, "exhaustive": exhaustive}
        limited = Vetting(
            checkpoint=vetting.checkpoint,
            settings=vetting.settings.model_copy(update=update),
            context=vetting.context,
        )
        verdicts.append(limited.ablate_random(1).is_harmless(within=1.1))
    assert [verdict.outcome for verdict in verdicts] == ["inconclusive", "inconclusive"]
    assert verdicts[0].seen == 16
    assert verdicts[1].seen == vetting.measurement.layout.n_blocks
