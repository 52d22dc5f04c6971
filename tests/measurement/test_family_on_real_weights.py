"""The seed's finding on real weights of other families: its dimensions, and what they are worth."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from robustness.ablation.ablation import Ablation
from robustness.ablation.interventions import FixedAblation, Intact, Intervention
from robustness.policy.policy import load_policy
from robustness.run.planning import make_plan
from robustness.store.context import Context
from robustness.vetting import Vetting
from tests.support.checkpoints.real_files import REAL_FILES, found
from tests.support.checkpoints.shared import bert_tiny_reference
from tests.support.records import reference

BUILTIN = Path(__file__).parents[2] / "robustness" / "corpus" / "data" / "builtin"


def real(name: str) -> Callable[[], str]:
    return lambda: str(found(REAL_FILES[name](), name))


def vetting(model: str, store: Path) -> Vetting:
    policy = load_policy(None, options={"corpus": "builtin"})
    (planned,) = make_plan([model], policy, Context(root=store)).checkpoints
    return Vetting(
        checkpoint=planned.load(),
        settings=planned.settings,
        model_profile=planned.model_profile,
        context=Context(root=store),
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "shape", "layers"),
    [
        pytest.param(bert_tiny_reference, (2, 128), {73: 1}, id="bert-tiny"),
        pytest.param(real("gemma_270m"), (18, 640), {163: 14, 400: 11}, id="gemma"),
        pytest.param(real("qwen_coder"), (24, 896), {490: 24}, id="qwen"),
    ],
)
def test_the_dimensions_that_busters_finds(
    model: Callable[[], str], shape: tuple[int, int], layers: dict[int, int], tmp_path: Path
) -> None:
    """Right values found independently, from the weights alone."""
    asked = vetting(model(), tmp_path)
    assert asked.model_profile is not None
    assert (asked.model_profile.layers, asked.model_profile.hidden_size) == shape
    assert {o.dim: len(o.layers) for o in asked.outliers().detection.outliers} == layers


def perplexity(asked: Vetting, intervention: Intervention, n_chunks: int) -> tuple[float, int]:
    chunks = [asked.measurement.chunk(n, intervention)[0] for n in range(n_chunks)]
    tokens = sum(int(chunk.tokens.sum()) for chunk in chunks)
    return math.exp(math.fsum(float(chunk.nll_nats.sum()) for chunk in chunks) / tokens), tokens


@pytest.mark.slow
def test_bert_tiny_on_the_whole_built_in_corpus(tmp_path: Path) -> None:
    """Its norms are stored by their old names, gamma and beta; the plain loop says the same."""
    asked = vetting(bert_tiny_reference(), tmp_path)
    n_chunks = asked.measurement.n_chunks
    intact, tokens = perplexity(asked, Intact(), n_chunks)
    ablated, _ = perplexity(asked, FixedAblation(ablation=Ablation(dims=(73,))), n_chunks)
    assert intact == pytest.approx(6527.58, abs=0.01)
    assert tokens == 4921
    assert ablated / intact == pytest.approx(1.07330, abs=1e-5)

    checkpoint = reference.load(asked.checkpoint.folder)
    texts = reference.read_corpus(str(BUILTIN), "packed")
    blocks = reference.text_blocks(texts, "packed", checkpoint.tokenizer, 128)
    fingerprint = reference.fingerprint(texts, "packed")
    order = reference.measurement_order(len(blocks), 0, fingerprint)
    for dims, expected in (((), intact), ((73,), ablated)):
        scored = reference.nlls(
            checkpoint, blocks, order, dims, seed=0, corpus_fingerprint=fingerprint
        )
        nats = math.fsum(nll for nll, _ in scored)
        assert math.exp(nats / tokens) == pytest.approx(expected, rel=1e-5)
