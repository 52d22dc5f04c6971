"""What a change does to a model, by a plain loop of its own: no code of the package, no sampling.

Masked models: every seventh token of a text is masked at a time, in the first
``ways`` of the seven ways (with 7, every token is scored once), a text alone in its batch, so
without padding. Causal models: a text is one row of 128 tokens, scored from its third on, so that a
missing first token costs no score. Log-probabilities in float32, sums in float64.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

APART = 7
"""Tokens from one mask to the next: about 15 % are masked."""


class Scored(NamedTuple):
    """What a model says of a text.

    Attributes:
        tokens: ids of what is scored, (n,).
        log_probabilities: of all tokens in their places, (n, V).
    """

    tokens: Tensor
    log_probabilities: Tensor

    @property
    def nll(self) -> float:
        """Summed over the text, in nats."""
        chosen = self.log_probabilities.gather(1, self.tokens[:, None])
        return -float(chosen.double().sum())


class Effect(NamedTuple):
    """A candidate beside its reference on the same texts.

    Attributes:
        ratio: of their perplexities.
        error: standard error of its logarithm over texts.
        nats: mean KL divergence of a scored token's distribution, reference ‖ candidate.
        share: of scored tokens whose most probable token is another.
    """

    ratio: float
    error: float
    nats: float
    share: float


@torch.no_grad()
def scored(model: Any, tokenizer: Any, text: str, *, ways: int) -> Scored:
    """One text, masked in some ways, or, with 0, read as it is by a causal model."""
    limit = model.config.max_position_embeddings - 2
    ids = torch.tensor(tokenizer(text)["input_ids"][: min(limit, 128)])
    if not ways:
        first = 2 + (int(ids[0]) in tokenizer.all_special_ids)
        logits = model(ids[None]).logits[0, first - 1 : -1]
        return Scored(ids[first:], logits.float().log_softmax(-1))
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    places = torch.tensor([n for n, token in enumerate(ids.tolist()) if token not in special])
    way = torch.arange(len(places)) % APART
    places, way = places[way < ways], way[way < ways]
    rows = ids.repeat(ways, 1)  # (ways, T)
    rows[way, places] = tokenizer.mask_token_id
    logits = model(rows).logits[way, places]  # (n, V)
    return Scored(ids[places], logits.float().log_softmax(-1))


def all_scored(model: Any, tokenizer: Any, texts: Sequence[str], *, ways: int) -> list[Scored]:
    """All texts, one after the other."""
    return [scored(model, tokenizer, text, ways=ways) for text in texts]


def effect(candidate: Sequence[Scored], reference: Sequence[Scored]) -> Effect:
    """All texts together; NaN and infinity are an infinite ratio."""
    pairs = list(zip(candidate, reference, strict=True))
    sizes = [len(then.tokens) for _, then in pairs]
    total = sum(sizes)
    harms = [now.nll - then.nll for now, then in pairs]
    harm = sum(harms) / total
    if not math.isfinite(harm):
        return Effect(math.inf, math.inf, math.inf, 1.0)
    spread = sum((h - harm * n) ** 2 for h, n in zip(harms, sizes, strict=True))
    nats = sum(divergence(now, then) for now, then in pairs) / total
    others = sum(changed(now, then) for now, then in pairs) / total
    return Effect(math.exp(min(harm, 50.0)), math.sqrt(spread) / total, nats, others)


def divergence(now: Scored, then: Scored) -> float:
    """Summed over a text; only of the tokens that both know."""
    known = min(now.log_probabilities.shape[1], then.log_probabilities.shape[1])
    p, q = then.log_probabilities[:, :known], now.log_probabilities[:, :known]
    return float((p.exp() * (p - q)).sum(1).double().sum())


def changed(now: Scored, then: Scored) -> int:
    """Scored tokens of a text whose most probable token is another; the lower id of equals."""
    return int((now.log_probabilities.argmax(1) != then.log_probabilities.argmax(1)).sum())


def largest_change(now: Any, then: Any) -> float:
    """Over all tensors of two models: the norm of the difference by that of the reference."""
    before, after = then.state_dict(), now.state_dict()
    if before.keys() != after.keys():
        return math.inf
    found = 0.0
    for name, tensor in before.items():
        if tensor.shape != after[name].shape:
            return math.inf
        apart = float((after[name].double() - tensor.double()).norm())
        size = float(tensor.double().norm())
        found = max(found, apart / (size or 1.0))
    return found if math.isfinite(found) else math.inf
