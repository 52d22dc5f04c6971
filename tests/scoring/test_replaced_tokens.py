"""ELECTRA's discriminator against plain loops, and the words reports have for its loss."""

import hashlib
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from robustness.ablation.interventions import Intact
from robustness.errors import PolicyError
from robustness.policy.policy import load_policy
from robustness.run.plan import RunPlan
from robustness.run.planning import make_plan
from robustness.scoring.discriminator import Discriminator
from robustness.scoring.quantity import quantity
from robustness.scoring.replaced import entropy_nats, sampled_tokens
from robustness.scoring.sampling import BlockSeed
from robustness.scoring.scoring_plan import CHUNK_BLOCKS
from robustness.store.context import Context
from robustness.vetting import Vetting
from tests.scoring.test_masking import word_piece_tokenizer
from tests.support.checkpoints.checkpoint_folders import save_checkpoint, tiny_model

SIZES = {"vocab_size": 19, "embedding_size": 12}
BLOCK_SIZE = 12


def _number(label: str) -> int:
    return int(hashlib.sha256(label.encode()).hexdigest(), 16)


def _saved(folder: Path, class_name: str, **settings: Any) -> Path:
    model = tiny_model(class_name, **{**SIZES, **settings})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return save_checkpoint(folder, model, word_piece_tokenizer())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("electra")
    _saved(folder / "discriminator", "ElectraForPreTraining")
    _saved(folder / "generator", "ElectraForMaskedLM")
    _saved(folder / "other", "ElectraForMaskedLM", vocab_size=23)
    rng = np.random.default_rng(1)
    letters = rng.choice(list("abcdefg"), 400, p=[0.4, 0.2, 0.1, 0.1, 0.1, 0.05, 0.05])
    (folder / "text.txt").write_text(" ".join(letters))
    return folder


def _vetting(place: Path, generator: str = "unigram") -> Vetting:
    options = {
        "corpus": str(place / "text.txt"), "block_size": BLOCK_SIZE, "generator": generator,
    }  # fmt: skip
    policy = load_policy(None, options=options)
    model = str(place / "discriminator")
    (planned,) = make_plan([model], policy, Context(root=place / "store")).checkpoints
    return Vetting(
        checkpoint=planned.load(), settings=planned.settings, context=Context(root=place / "store")
    )


def _text_blocks(place: Path) -> list[list[int]]:
    tokens = [5 + "abcdefg".index(letter) for letter in (place / "text.txt").read_text().split()]
    size = BLOCK_SIZE - 2
    return [[2, *tokens[i : i + size], 3] for i in range(0, len(tokens) - size + 1, size)]


def _plain_replacement(
    generator: Any, blocks: list[list[int]], fingerprint: str, block: int, chosen: list[int]
) -> list[int]:
    label = f"0:{fingerprint}:{block}"
    if generator is None:
        corpus = [token for ids in blocks for token in ids[1:-1]]
        return [corpus[_number(f"replace:{label}:{p}") % len(corpus)] for p in chosen]
    shown = [4 if p in chosen else token for p, token in enumerate(blocks[block])]
    with torch.no_grad():
        likely = torch.softmax(generator(torch.tensor([shown])).logits[0].double(), -1)
    tokens = []
    for p in chosen:
        lot, token, below = (_number(f"sample:{label}:{p}") % 2**53) / 2**53, -1, 0.0
        while below <= lot:
            token += 1
            below += float(likely[p, token])
        tokens.append(token)
    return tokens


@pytest.mark.parametrize("named", [False, True])
def test_a_discriminator_scores_what_a_plain_loop_scores(named: bool, place: Path) -> None:
    vetting = _vetting(place, str(place / "generator") if named else "unigram")
    measurement = vetting.measurement
    (measured,) = measurement.chunk(0, Intact())
    model = vetting.checkpoint.load_model()
    generator = vetting.generator.load_model() if vetting.generator else None

    blocks = _text_blocks(place)
    fingerprint = vetting.corpus.fingerprint
    order = sorted(range(len(blocks)), key=lambda b: _number(f"order:0:{fingerprint}:{b}"))
    n_replaced = 0
    for index, block in enumerate(order):
        ids = blocks[block]
        inside = range(1, len(ids) - 1)
        ranked = sorted(inside, key=lambda p: _number(f"mask:0:{fingerprint}:{block}:{p}"))
        chosen = sorted(ranked[: max(1, round(0.15 * len(inside)))])
        shown = list(ids)
        new = _plain_replacement(generator, blocks, fingerprint, block, chosen)
        for p, token in zip(chosen, new, strict=True):
            shown[p] = token
        n_replaced += sum(shown[p] != ids[p] for p in inside)
        if index >= CHUNK_BLOCKS:
            continue
        with torch.no_grad():
            logits = model(torch.tensor([shown])).logits[0].double()
        expected = -sum(
            float(torch.log(torch.sigmoid(logits[p] if shown[p] != ids[p] else -logits[p])))
            for p in inside
        )
        assert measured.tokens[index] == len(inside)
        assert measured.nll_nats[index] == pytest.approx(expected, rel=1e-5)
    rate = n_replaced / (len(blocks) * len(inside))
    entropy = -rate * math.log(rate) - (1 - rate) * math.log(1 - rate)
    assert measurement.scoring_plan.chance_nats == pytest.approx(entropy)


def test_a_generator_of_another_vocabulary_or_kind_is_refused(place: Path) -> None:
    with pytest.raises(PolicyError, match="is scored masked and has 23 tokens: name a masked"):
        _vetting(place, str(place / "other"))
    with pytest.raises(PolicyError, match="is scored replaced-token and has 19 tokens"):
        _vetting(place, str(place / "discriminator"))


def test_a_generator_is_resolved_once_for_all_processes(place: Path) -> None:
    policy = load_policy(
        None,
        options={"corpus": str(place / "text.txt"), "generator": str(place / "generator")},
    )
    plan = make_plan([str(place / "discriminator")], policy, Context(root=place / "store"))
    (planned,) = RunPlan.from_json(plan.to_json()).checkpoints
    assert planned.generator == plan.checkpoints[0].generator
    generator = planned.vetting(plan.context).generator
    assert generator is not None
    assert generator.architecture == "ElectraForMaskedLM"


def test_generators_do_not_share_stored_numbers(place: Path) -> None:
    keys = [
        _vetting(place, generator).measurement.store.context
        for generator in ("unigram", str(place / "generator"))
    ]
    assert "generator" not in keys[0]
    assert keys[1]["generator"]["architecture"] == "ElectraForMaskedLM"


def test_the_loss_is_called_a_loss_and_compared_with_the_base_rate(place: Path) -> None:
    vetting = _vetting(place)
    verdict = vetting.intact().beats_uniform_guess()
    assert "replaced-token loss stays below" in verdict.statement
    assert "entropy of the base rate" in verdict.statement
    intact = verdict.details.intact
    assert intact is not None
    assert intact.perplexity is None
    loss, chance = intact.nats_per_token, intact.chance_nats_per_token
    assert verdict.measured == pytest.approx(math.exp(loss - chance))
    harmless = vetting.ablate(3).is_harmless(within=1.5)
    assert "less than 0.405 nats per token to the replaced-token loss" in harmless.statement
    assert "perplexity" not in verdict.statement + harmless.statement


def test_perplexity_keeps_its_words() -> None:
    assert quantity("masked").grows("at least", 1.05) == "multiplies perplexity by at least 1.05"
    assert quantity("causal").figure(math.log(8)) == pytest.approx(8)
    assert quantity("causal").figure(1e9) == math.inf


@given(st.floats(0, 1))
def test_the_entropy_is_that_of_the_best_constant_guess(share: float) -> None:
    losses = [
        -share * math.log(guess) - (1 - share) * math.log(1 - guess)
        for guess in np.linspace(0.001, 0.999, 999)
    ]
    assert entropy_nats(share) <= min(losses) + 1e-9
    assert entropy_nats(share) == pytest.approx(min(losses), abs=2e-3)


def test_a_generators_tokens_follow_its_distribution() -> None:
    logits = np.log(np.array([[0.5, 0.0625, 0.3125, 0.125]]))
    drawn = Counter(
        int(sampled_tokens(logits, [0], block_seed=BlockSeed(seed, "f", 0))[0])
        for seed in range(4000)
    )
    for token, share in enumerate([0.5, 0.0625, 0.3125, 0.125]):
        spread = math.sqrt(4000 * share * (1 - share))
        assert abs(drawn[token] - 4000 * share) < 4 * spread


def test_padding_changes_nothing() -> None:
    from robustness.scoring.block import ScoredBlock

    model = tiny_model("ElectraForPreTraining", **SIZES)
    rows = [
        ScoredBlock(ids=np.arange(5, 5 + n), positions=np.arange(n), targets=np.arange(n) % 2)
        for n in (4, 9)
    ]
    alone = [float(Discriminator(model).nll_nats([row])[0]) for row in rows]
    assert Discriminator(model).nll_nats(rows) == pytest.approx(alone, rel=1e-5)
