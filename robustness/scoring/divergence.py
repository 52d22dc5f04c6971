"""From logits to distributions in short, and the KL divergence of other logits from these."""

import numpy as np
import torch
from torch import Tensor

from robustness.scoring.distributions import MASS, MOST_TOKENS, SAMPLED, Distributions


def in_short(logits: Tensor, seed: int) -> Distributions:
    """Distributions that logits of shape (n, V) stand for; the sample of the rest is seeded."""
    log_p = torch.log_softmax(logits.float(), -1).cpu()  # (n, V)
    n, vocabulary = log_p.shape
    kept, tokens = log_p.topk(min(vocabulary, MOST_TOKENS), sorted=True)  # (n, K)
    # Of equally probable tokens the one with the lowest number comes first.
    first = (tokens == log_p.argmax(-1, keepdim=True)).long().argmax(-1, keepdim=True)
    best = tokens.gather(1, first)
    tokens = tokens.scatter(1, first, tokens[:, :1]).index_copy(1, torch.tensor([0]), best)
    before = kept.double().exp().cumsum(-1) - kept.double().exp()  # mass of more probable tokens
    wanted = (
        torch.ones_like(before, dtype=torch.bool) if vocabulary <= MOST_TOKENS else before < MASS
    )
    counts = wanted.sum(-1)
    sampled = torch.full((n, SAMPLED), -1)
    sampled_log_p = torch.zeros(n, SAMPLED)
    if vocabulary > MOST_TOKENS:
        generator = torch.Generator().manual_seed(seed)
        rest = log_p.exp().scatter_(1, tokens, torch.where(wanted, 0.0, kept.exp()))
        has_rest = rest.sum(-1) > 0
        if bool(has_rest.any()):
            drawn = torch.multinomial(
                rest[has_rest], SAMPLED, replacement=True, generator=generator
            )
            sampled[has_rest] = drawn
            sampled_log_p[has_rest] = log_p[has_rest].gather(1, drawn)
    return Distributions(
        counts=counts.numpy(),
        tokens=tokens[wanted].numpy(),
        log_p=kept[wanted].numpy(),
        sampled=sampled.numpy(),
        sampled_log_p=sampled_log_p.numpy(),
    )


def divergences(reference: Distributions, logits: Tensor) -> Tensor:
    r"""KL(reference ‖ logits) at each of n positions in nats, and what is lost of it, (n, 2).

    Of the reference's distribution p the kept tokens k and the rest as one are compared with q:

    .. math:: \sum_k p_k \ln\frac{p_k}{q_k} + p_\text{rest} \ln\frac{p_\text{rest}}{q_\text{rest}},

    which by the log-sum inequality is never more than the divergence. The difference is
    :math:`p_\text{rest} (E \ln\frac{p}{q} - \ln\frac{p_\text{rest}}{q_\text{rest}})` over the
    rest, whose mean is estimated, without bias, from the tokens that were drawn from it.
    """
    log_q = torch.log_softmax(logits.float(), -1).cpu().double()  # (n, V)
    n = len(log_q)
    counts = torch.from_numpy(reference.counts.astype(np.int64))
    position = torch.repeat_interleave(torch.arange(n), counts)
    log_p = torch.from_numpy(reference.log_p.astype(np.float64))
    log_q_kept = _at(log_q, position, torch.from_numpy(reference.tokens.astype(np.int64)))
    p, q = log_p.exp(), log_q_kept.exp()

    def summed(values: Tensor) -> Tensor:
        return torch.zeros(n, dtype=torch.float64).index_add_(0, position, values)

    kept = summed(torch.where(p > 0, p * (log_p - log_q_kept), 0.0))
    sampled = torch.from_numpy(reference.sampled.astype(np.int64))
    has_rest = sampled[:, 0] >= 0
    if not bool(has_rest.any()):
        return torch.stack([kept.clamp(min=0), torch.zeros(n, dtype=torch.float64)], 1)
    tiny = torch.finfo(torch.float64).tiny
    p_rest, q_rest = ((1 - summed(mass)).clamp(min=tiny) for mass in (p, q))
    # In float32 a rest of less than a rounding error is none.
    p_rest = torch.where(has_rest & (p_rest > 1e-6), p_rest, 0.0)
    q_rest = q_rest.clamp(min=1e-6)
    ratio = torch.where(p_rest > 0, (p_rest.clamp(min=tiny) / q_rest).log(), 0.0)
    rows = torch.arange(n).repeat_interleave(SAMPLED)
    log_q_rest = _at(log_q, rows, sampled.clamp(min=0).flatten()).reshape(n, SAMPLED)
    log_p_rest = torch.from_numpy(reference.sampled_log_p.astype(np.float64))
    lost = p_rest * ((log_p_rest - log_q_rest).mean(-1) - ratio)
    lost = torch.where(p_rest > 0, lost, 0.0)
    # What the candidate cannot say makes the divergence infinite, also if it was only drawn.
    never, found = torch.isinf(lost), (kept + p_rest * ratio).clamp(min=0)
    return torch.stack([found.masked_fill(never, torch.inf), lost.masked_fill(never, 0.0)], 1)


def _at(log_q: Tensor, rows: Tensor, tokens: Tensor) -> Tensor:
    """Log-probabilities of tokens; of those that the vocabulary does not have, -inf."""
    known = tokens < log_q.shape[1]
    values = log_q[rows, tokens.clamp(max=log_q.shape[1] - 1)]
    return torch.where(known, values, -torch.inf)
