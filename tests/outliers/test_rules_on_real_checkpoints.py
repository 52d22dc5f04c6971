"""Every rule on the real checkpoints at hand: what it finds, and whether a plain loop agrees."""

import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from robustness.checkpoint.resolving import resolve
from robustness.errors import RobustnessError, RuleError, UnsupportedSite
from robustness.policy.policy import load_policy
from robustness.store.context import Context
from robustness.vetting import Vetting
from tests.support.checkpoints.hidden_states import Hidden, summed_up
from tests.support.checkpoints.shared import shared_data, shared_model, smollm2_reference
from tests.support.records import reference

Found = tuple[int, ...] | type[RobustnessError]

REACTIONS = "rxnmapper_example_rxns.csv"
CHECKPOINTS: dict[str, tuple[Callable[[], str], Callable[[], str], dict[str, Found]]] = {
    "bert": (
        lambda: str(shared_model("rxnfp-bert-mlm")),
        lambda: f"{shared_data(REACTIONS)}:rxn",
        {
            "busters": (),
            "puccetti": (),
            "llm-int8": (213,),
            "massive": (),
            "variance": (29, 42, 122),
            "kurtosis": (118, 213),
            "super-weight": UnsupportedSite,
        },
    ),
    "albert": (
        lambda: str(shared_model("rxnmapper-albert-mlm")),
        lambda: f"{shared_data(REACTIONS)}:rxn",
        {
            "busters": (60,),
            "puccetti": (60, 68, 113),
            "llm-int8": (116,),
            "massive": (),
            "variance": (51, 115),
            "kurtosis": (39, 54, 107, 116, 188, 189, 230),
            "super-weight": UnsupportedSite,
        },
    ),
    "roberta": (
        lambda: str(shared_model("sapiens-roberta-vl")),
        lambda: str(shared_data("antibody-light.fa")),
        {
            "busters": (92, 112),
            "puccetti": (92,),
            "llm-int8": (),
            "massive": (),
            "variance": (),
            "kurtosis": (),
            "super-weight": UnsupportedSite,
        },
    ),
    "llama": (
        smollm2_reference,
        lambda: "builtin",
        {
            "busters": (100, 247, 507),
            "puccetti": RuleError,
            "llm-int8": (247,),
            "massive": (247, 507),
            "variance": (8, 17, 25, 50, 59, 173, 199, 247, 296, 299, 322, 371, 387, 471, 506, 521),
            "kurtosis": (14, 100, 247, 260, 507),
        },
    ),
}


def vetting(name: str, store: Path, **rules: Any) -> Vetting:
    model, corpus, _ = CHECKPOINTS[name]
    options = {"corpus": corpus(), "rules": rules}
    settings = load_policy(None, options=options).settings(name)
    checkpoint = resolve(model(), cache=store)
    return Vetting(checkpoint=checkpoint, settings=settings, context=Context(root=store))


@pytest.mark.parametrize(
    "name",
    ["bert", "roberta", *(pytest.param(n, marks=pytest.mark.slow) for n in ("albert", "llama"))],
)
def test_what_every_rule_finds(name: str, tmp_path: Path) -> None:
    asked = vetting(name, tmp_path)
    for rule, expected in CHECKPOINTS[name][2].items():
        ask = partial(asked.outliers, rule=rule)
        if isinstance(expected, tuple):
            assert ask().dims == expected, rule
        else:
            with pytest.raises(expected, match=f"rule {rule}"):
                ask()


@pytest.mark.slow
def test_the_super_weight_of_a_real_model_writes_its_largest_dimension(tmp_path: Path) -> None:
    asked = vetting("llama", tmp_path, **{"super-weight": {"max_rounds": 1}})
    found = asked.outliers(rule="super-weight").detection
    weights = [weight for outlier in found.outliers for weight in outlier.details["weights"]]
    strongest = max(weights, key=lambda weight: abs(weight["output"]))
    assert (strongest["layer"], strongest["row"]) == (11, 507)
    assert abs(strongest["output"]) > 20_000


def test_hidden_states_of_a_real_checkpoint_by_a_plain_loop(tmp_path: Path) -> None:
    """Massive, variance and kurtosis from transformers' own hidden states, with no hooks."""
    asked = vetting("bert", tmp_path, text_blocks=3)
    hidden = _hidden_states(CHECKPOINTS["bert"][1](), 3)
    expected = summed_up(hidden)
    names = ("massive", "variance", "kurtosis")
    found = {name: asked.outliers(rule=name).detection for name in names}
    details = found["kurtosis"].details
    assert details["kurtosis"] == pytest.approx(expected.kurtosis.mean(axis=1), rel=1e-4)
    s2 = expected.mean_square
    kurt = [statistics.fmean(row**2) / statistics.fmean(row) ** 2 for row in s2]
    assert details["kurt"] == pytest.approx(kurt, rel=1e-4)
    largest = [max(float(abs(values).max()) for values in layer) for layer in hidden]
    assert found["massive"].details["largest"] == pytest.approx(largest, rel=1e-4)
    variances = expected.sentences.var(axis=0)
    assert found["variance"].dims == tuple(np.flatnonzero(variances >= 5 * variances.mean()))


def _hidden_states(corpus: str, n_blocks: int) -> Hidden:
    """Behind every layer, of the first text blocks of the seeded order."""
    checkpoint = reference.load(shared_model("rxnfp-bert-mlm"))
    texts = reference.read_corpus(corpus, "lines")
    blocks = reference.text_blocks(texts, "lines", checkpoint.tokenizer, 128)
    order = reference.measurement_order(len(blocks), 0, reference.fingerprint(texts, "lines"))
    hidden: Hidden = [[] for _ in range(checkpoint.model.config.num_hidden_layers)]
    for number in order[:n_blocks]:
        ids = torch.tensor([blocks[number].ids])
        with torch.no_grad():
            states = checkpoint.model(input_ids=ids, output_hidden_states=True).hidden_states
        for layer, state in zip(hidden, states[1:], strict=True):
            layer.append(state[0].double().numpy())
    return hidden
