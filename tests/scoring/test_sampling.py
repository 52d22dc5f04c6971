"""Order, masks and draws: what PROTOCOL.md says, independent of library versions."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustness.scoring.sampling import (
    BlockSeed,
    DrawClock,
    block_order,
    masked_positions,
    random_dims,
)


def _rank(label: str) -> int:
    return int(hashlib.sha256(label.encode()).hexdigest(), 16)


@given(n=st.integers(1, 200), seed=st.integers(0, 10**9))
def test_the_order_is_a_permutation_that_depends_on_the_seed(n: int, seed: int) -> None:
    order = block_order(n, seed=seed, fingerprint="abc")
    assert sorted(order.tolist()) == list(range(n))
    assert order.tolist() == sorted(range(n), key=lambda i: _rank(f"order:{seed}:abc:{i}"))


def test_orders_of_different_seeds_and_corpora_differ() -> None:
    one = block_order(100, seed=0, fingerprint="abc").tolist()
    assert one != block_order(100, seed=1, fingerprint="abc").tolist()
    assert one != block_order(100, seed=0, fingerprint="abd").tolist()


@given(special=st.lists(st.booleans(), min_size=1, max_size=140).filter(lambda s: not all(s)))
def test_masks_hit_fifteen_per_cent_of_the_ordinary_tokens(special: list[bool]) -> None:
    flags = np.array(special)
    positions = masked_positions(flags, block_seed=BlockSeed(3, "f", 7))
    ordinary = int((~flags).sum())
    assert len(positions) == max(1, round(0.15 * ordinary))
    assert not flags[positions].any()
    assert positions.tolist() == sorted(set(positions.tolist()))
    least = sorted(np.flatnonzero(~flags).tolist(), key=lambda p: _rank(f"mask:3:f:7:{p}"))
    assert set(positions.tolist()) == set(least[: len(positions)])


@given(
    size=st.integers(1, 16),
    n=st.integers(16, 300),
    draw=st.integers(0, 10**6),
    seed=st.integers(0, 99),
)
def test_draws_are_distinct_candidates(size: int, n: int, draw: int, seed: int) -> None:
    candidates = [3 * i + 1 for i in range(n)]
    dims = random_dims(candidates, size, seed=seed, draw=draw)
    assert len(set(dims)) == size
    assert set(dims) <= set(candidates)
    assert dims == random_dims(candidates, size, seed=seed, draw=draw)


def test_draws_are_uniform_over_the_candidates() -> None:
    counts = np.zeros(20)
    for draw in range(4000):
        counts[list(random_dims(range(20), 2, seed=0, draw=draw))] += 1
    expected = 4000 * 2 / 20
    chi_squared = ((counts - expected) ** 2 / (expected * (1 - 2 / 20))).sum()
    assert chi_squared < 43.8  # 0.1 % point of chi-squared with 19 degrees of freedom


def test_more_dimensions_than_there_are_cannot_be_drawn() -> None:
    with pytest.raises(ValueError, match="cannot draw 3 dimensions from 2"):
        random_dims([1, 2], 3, seed=0, draw=0)


@given(
    tokens=st.lists(st.integers(1, 100), min_size=1, max_size=60),
    cut=st.integers(0, 60),
)
def test_a_draw_stays_until_64_tokens_wherever_chunks_end(tokens: list[int], cut: int) -> None:
    clock = DrawClock()
    numbers = clock.assign(tokens[:cut]) + clock.assign(tokens[cut:])
    per_draw: dict[int, int] = {}
    for number, n in zip(numbers, tokens, strict=True):
        assert per_draw.get(number, 0) < 64  # it had not had enough yet
        per_draw[number] = per_draw.get(number, 0) + n
    assert numbers == sorted(numbers)
    assert clock.complete == sum(scored >= 64 for scored in per_draw.values())
