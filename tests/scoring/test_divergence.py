"""Divergences from distributions in short, against the whole distributions in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from robustness.scoring.distributions import MOST_TOKENS, Distributions
from robustness.scoring.divergence import divergences, in_short

Floats = NDArray[np.float64]


def log_softmax(logits: Floats) -> Floats:
    shifted = logits - logits.max(-1, keepdims=True)
    normalised: Floats = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return normalised


def whole_divergence(reference: Floats, candidate: Floats) -> Floats:
    """KL by a plain sum over the vocabulary, shape (n,)."""
    log_p, log_q = log_softmax(reference), log_softmax(candidate)
    divergence: Floats = (np.exp(log_p) * (log_p - log_q)).sum(-1)
    return divergence


def pair(
    vocabulary: int, spread: float, noise: float, *, n: int = 12, seed: int = 0
) -> list[Floats]:
    generator = np.random.default_rng(seed)
    reference = generator.normal(0, spread, (n, vocabulary)).astype(np.float32)
    candidate = reference + generator.normal(0, noise, reference.shape).astype(np.float32)
    return [reference.astype(np.float64), candidate.astype(np.float64)]


def short(reference: Floats, seed: int = 0) -> Distributions:
    return in_short(torch.from_numpy(reference).float(), seed)


def found(reference: Floats, candidate: Floats, seed: int = 0) -> tuple[Floats, Floats]:
    result = divergences(short(reference, seed), torch.from_numpy(candidate).float()).numpy()
    return result[:, 0], result[:, 1]


@given(
    vocabulary=st.integers(2, MOST_TOKENS), spread=st.floats(0, 8), noise=st.floats(0, 3),
    seed=st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_of_a_small_vocabulary_nothing_is_lost(
    vocabulary: int, spread: float, noise: float, seed: int
) -> None:
    reference, candidate = pair(vocabulary, spread, noise, seed=seed)
    divergence, lost = found(reference, candidate)
    expected = whole_divergence(reference, candidate)
    np.testing.assert_allclose(divergence, expected, rtol=1e-4, atol=1e-5)
    assert not lost.any()


@given(
    vocabulary=st.integers(MOST_TOKENS + 1, 3000), spread=st.floats(0.1, 6),
    noise=st.floats(0, 2), seed=st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_what_is_kept_is_never_more_than_the_divergence(
    vocabulary: int, spread: float, noise: float, seed: int
) -> None:
    reference, candidate = pair(vocabulary, spread, noise, seed=seed)
    divergence, _ = found(reference, candidate)
    assert (divergence <= whole_divergence(reference, candidate) + 1e-4).all()


@pytest.mark.parametrize("spread", [0.5, 2.0, 4.0], ids=["flat", "usual", "peaked"])
def test_what_is_lost_is_estimated_without_bias(spread: float) -> None:
    """The mean over positions is off by a few standard errors at most."""
    reference, candidate = pair(4000, spread, 0.5, n=600)
    expected = whole_divergence(reference, candidate)
    divergence, lost = found(reference, candidate)
    missing = expected - divergence
    error = lost - missing
    standard_error = error.std() / np.sqrt(len(error))
    assert abs(error.mean()) < 4 * standard_error + 1e-6
    if spread < 4:
        assert missing.mean() > 10 * standard_error  # so that a constant 0 would be seen


def test_tokens_that_hold_the_mass_are_kept_and_of_equal_ones_the_first_comes_first() -> None:
    logits = np.full((2, 1000), -9.0)
    logits[0, [7, 400]] = 9.0
    logits[1, [500, 3]] = 5.0
    kept = short(logits)
    assert kept.most_probable.tolist() == [7, 3]
    assert kept.counts[0] == 2
    for row in range(2):
        rows = kept.between(slice(row, row + 1))
        mass = np.exp(rows.log_p.astype(np.float64)).sum()
        assert mass >= 0.999 or rows.counts[0] == MOST_TOKENS
        assert not set(rows.sampled[0]) & set(rows.tokens.tolist())


def test_they_travel_and_are_parted_by_rows() -> None:
    logits = pair(2000, 3.0, 0.0, n=9)[0]
    whole = short(logits)
    again = Distributions.from_record(whole.to_record())
    parts = again.rows([2, 3, 4])
    assert [len(part.counts) for part in parts] == [2, 3, 4]
    joined = Distributions.joined(parts)
    for name in ("counts", "tokens", "log_p", "sampled", "sampled_log_p"):
        np.testing.assert_array_equal(getattr(joined, name), getattr(whole, name))


def test_a_smaller_vocabulary_makes_what_it_lacks_infinite() -> None:
    reference = np.full((1, 300), -20.0)
    reference[0, 299] = 10.0
    divergence, _ = found(reference, reference[:, :290])
    assert divergence[0] == np.inf


def test_what_a_smaller_vocabulary_lacks_of_the_rest_is_infinite_too_once_it_is_drawn() -> None:
    """What is lost stays a number, by which an interval can be widened."""
    reference = np.zeros((4, 600))
    divergence, lost = found(reference, reference[:, :300])
    assert np.isinf(divergence).all()
    assert np.isfinite(lost).all()


def test_what_the_reference_cannot_say_adds_nothing() -> None:
    reference = pair(100, 2.0, 0.0)[0]
    reference[:, 7] = -np.inf
    divergence, _ = found(reference, reference)
    np.testing.assert_allclose(divergence, 0, atol=1e-6)


def test_the_rest_counts_where_only_the_reference_has_a_large_vocabulary() -> None:
    reference = np.full((1, MOST_TOKENS + 9), -np.inf)
    reference[0, :MOST_TOKENS] = np.log(9e-4 / (MOST_TOKENS - 1))
    candidate = np.full((1, MOST_TOKENS), np.log(1e-5 / (MOST_TOKENS - 1)))
    reference[0, 0], candidate[0, 0] = np.log(1 - 9e-4), np.log(1 - 1e-5)
    divergence, _ = found(reference, candidate)
    expected = whole_divergence(reference[:, :MOST_TOKENS], candidate)
    np.testing.assert_allclose(divergence, expected, rtol=0.05)  # 1 - 1e-5 in float32
