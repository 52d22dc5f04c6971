"""Micro-batches: execution detail that no verdict may depend on."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from robustness.ablation.ablation import Ablation
from robustness.ablation.interventions import FixedAblation, Intact, PerBlockAblation
from robustness.errors import MeasurementError
from robustness.measurement.batching import CPU_TOKENS, first_guess, micro_batches
from robustness.measurement.execution import Execution
from robustness.policy.policy import load_policy
from robustness.run.planning import make_plan
from robustness.runtime.devices import is_out_of_memory
from robustness.scoring.block import ScoredBlock
from robustness.scoring.forward import Scorer
from robustness.store.context import Context
from robustness.vetting import Vetting
from tests.support.checkpoints.planted import PLANTED, save_planted

BLOCK = 32


@given(
    lengths=st.lists(st.integers(1, 600), min_size=1, max_size=16), most_tokens=st.integers(1, 5000)
)
def test_micro_batches_hold_every_row_once_and_bound_the_tokens(
    lengths: list[int], most_tokens: int
) -> None:
    batches = micro_batches(lengths, most_tokens=most_tokens)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[row] for row in batch) <= most_tokens
    in_order = [lengths[row] for batch in batches for row in batch]
    assert in_order == sorted(lengths)


def test_equal_rows_fill_their_batches() -> None:
    assert [len(batch) for batch in micro_batches([128] * 16, most_tokens=512)] == [4, 4, 4, 4]


def test_little_free_memory_makes_small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    def guess(free: int | None) -> int:
        monkeypatch.setattr("robustness.measurement.batching._free_memory", lambda _: free)
        return first_guess("cpu", hidden_size=1000, reserved=10**6)

    assert guess(10**12) == guess(None) == CPU_TOKENS
    assert guess(20 * 10**6) == (10**7 - 10**6) // (4 * 1000 * 48)
    assert guess(0) == 1


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to …"), True),
        (RuntimeError("MPS backend out of memory"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_says_that_memory_ran_out(error: BaseException, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


# --- running out of memory -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return save_planted(tmp_path_factory.mktemp("planted"))


@pytest.fixture
def fresh(planted: tuple[Path, Path], tmp_path: Path) -> Callable[[str], Vetting]:
    """A vetting of the same checkpoint; the same store name means another process of one run."""

    def make(store: str) -> Vetting:
        folder, text = planted
        policy = load_policy(None, options={"corpus": str(text), "block_size": BLOCK})
        (only,) = make_plan([str(folder)], policy, Context(root=tmp_path / store)).checkpoints
        return Vetting(
            checkpoint=only.load(), settings=only.settings, context=Context(root=tmp_path / store)
        )

    return make


def _run_out(monkeypatch: pytest.MonkeyPatch, *, beyond_rows: int, error: Exception) -> list[int]:
    """Let a batch with more rows fail; the sizes of those that ran."""
    sizes: list[int] = []
    original = Scorer.nll_nats

    def limited(self: Scorer, blocks: Sequence[ScoredBlock]) -> NDArray[np.float64]:
        if len(blocks) > beyond_rows:
            raise error
        sizes.append(len(blocks))
        return original(self, blocks)

    monkeypatch.setattr(Scorer, "nll_nats", limited)
    return sizes


CONDITIONS: tuple[Any, ...] = (
    Intact(),
    FixedAblation(ablation=Ablation(dims=(PLANTED,))),
    PerBlockAblation(template=Ablation(dims=(0,)), dims=tuple((row,) for row in range(16))),
)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()], ids=["torch", "python"]
)
def test_running_out_of_memory_halves_the_batch_and_changes_no_number(
    fresh: Callable[[str], Vetting], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    expected = fresh("plenty").measurement.chunk(0, *CONDITIONS)
    sizes = _run_out(monkeypatch, beyond_rows=3, error=error)
    scarce = fresh("scarce").measurement
    found = scarce.chunk(0, *CONDITIONS)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.nll_nats, other.nll_nats, rtol=1e-6)
    assert set(sizes) == {2}  # 16 rows of 32 tokens, then 8, 4, 2
    assert scarce.store.context == fresh("plenty").measurement.store.context
    _run_out(monkeypatch, beyond_rows=2, error=AssertionError("tried the large batch again"))
    scarce.chunk(1, *CONDITIONS)


def test_an_ablation_is_compared_with_the_intact_model_in_the_same_batches(
    fresh: Callable[[str], Vetting], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory ran out for one process only, after another had measured the intact model."""
    (intact,) = fresh("one").measurement.chunk(0, Intact())
    _run_out(monkeypatch, beyond_rows=4, error=MemoryError())
    small = fresh("small").measurement.chunk(0, *CONDITIONS)
    again, *ablated = fresh("one").measurement.chunk(0, *CONDITIONS)
    np.testing.assert_array_equal(again.nll_nats, intact.nll_nats)
    for one, other in zip(ablated, small[1:], strict=True):
        difference = other.nll_nats - small[0].nll_nats
        np.testing.assert_allclose(one.nll_nats - intact.nll_nats, difference, rtol=0, atol=1e-12)


def test_another_process_takes_the_batches_of_the_one_that_measured_the_intact_model(
    fresh: Callable[[str], Vetting], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.MonkeyPatch.context() as scarce:
        _run_out(scarce, beyond_rows=2, error=MemoryError())
        fresh("one").measurement.chunk(0, Intact())
    sizes = _run_out(monkeypatch, beyond_rows=16, error=MemoryError())
    fresh("one").measurement.chunk(0, *CONDITIONS)
    assert set(sizes) == {2}


def test_a_text_block_that_does_not_fit_alone_is_one_sentence(
    fresh: Callable[[str], Vetting], monkeypatch: pytest.MonkeyPatch
) -> None:
    _run_out(monkeypatch, beyond_rows=0, error=MemoryError())
    with pytest.raises(MeasurementError, match="single text block"):
        fresh("none").measurement.chunk(0, Intact())


def test_other_errors_are_not_taken_for_a_lack_of_memory(
    fresh: Callable[[str], Vetting], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = _run_out(monkeypatch, beyond_rows=0, error=RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes"):
        fresh("broken").measurement.chunk(0, Intact())
    assert not sizes


# --- several processes ---------------------------------------------------------------------------


def test_who_waits_for_the_first_chunk_has_loaded_the_model_by_then(
    fresh: Callable[[str], Vetting], monkeypatch: pytest.MonkeyPatch
) -> None:
    measurements = [fresh("shared").measurement for _ in range(2)]
    both_loaded = threading.Barrier(2, timeout=60)
    load, nll_nats = Execution.load, Scorer.nll_nats
    passes: list[int] = []

    def loads(self: Execution) -> None:
        load(self)
        both_loaded.wait()

    def counts(self: Scorer, blocks: Sequence[ScoredBlock]) -> NDArray[np.float64]:
        passes.append(len(blocks))
        return nll_nats(self, blocks)

    monkeypatch.setattr(Execution, "load", loads)
    monkeypatch.setattr(Scorer, "nll_nats", counts)
    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(lambda each: each.chunk(0, Intact()), measurements)
    np.testing.assert_array_equal(one[0].nll_nats, other[0].nll_nats)
    assert sum(passes) == 16  # one of them waited for the other
