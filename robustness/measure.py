"""What turns (checkpoint, corpus, ablation) into stored negative log-likelihoods."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from robustness.dtypes import Dtype
from robustness.errors import MeasurementError
from robustness.sampling import block_order
from robustness.store import Record, Store, canonical_json, digest

if TYPE_CHECKING:
    from torch import nn

    from robustness.ablation import Ablation
    from robustness.anatomy import Anatomy
    from robustness.blocks import TextBlocks
    from robustness.checkpoint import Checkpoint
    from robustness.corpus import Corpus
    from robustness.detection import Examination
    from robustness.execution import Execution
    from robustness.scoring import ScoredBlock

CHUNK_BLOCKS = 16
"""Text blocks in a chunk, the unit that is stored and after which a decision is looked at."""

FULL_PRECISION: Dtype = "float32"

METHOD = 1
"""Version of the protocol (docs/PROTOCOL.md); part of every stored number's identity."""


@dataclass(frozen=True, kw_only=True)
class ChunkNLL:
    """Measured values of one chunk, per text block in the seeded order.

    Attributes:
        nll_nats: summed negative log-likelihood of the scored tokens, shape (n,).
        tokens: how many tokens were scored, shape (n,).
    """

    nll_nats: NDArray[np.float64]
    tokens: NDArray[np.int64]


class Condition(Protocol):
    """What is done to the model while a chunk is measured."""

    def key(self) -> Any:
        """JSON that identifies it in the store."""

    def applied(
        self, model: "nn.Module", anatomy: "Anatomy", rows: Sequence[int], /
    ) -> AbstractContextManager[None]:
        """The context in which the chunk's text blocks ``rows`` run as one batch."""


@dataclass(frozen=True, kw_only=True)
class Intact:
    """Nothing is done."""

    def key(self) -> Any:
        """See :class:`Condition`."""
        return None

    def applied(
        self, _model: "nn.Module", _anatomy: "Anatomy", _rows: Sequence[int], /
    ) -> AbstractContextManager[None]:
        """See :class:`Condition`."""
        return nullcontext()


@dataclass(frozen=True, kw_only=True)
class Fixed:
    """One ablation for all text blocks."""

    ablation: "Ablation"

    def key(self) -> Any:
        """See :class:`Condition`."""
        return self.ablation.to_dict()

    def applied(
        self, model: "nn.Module", anatomy: "Anatomy", _rows: Sequence[int], /
    ) -> AbstractContextManager[None]:
        """See :class:`Condition`."""
        from robustness.hooks import ablated

        return ablated(model, anatomy.stack, self.ablation)


@dataclass(frozen=True, kw_only=True)
class PerBlock:
    """Other dimensions for each text block of the chunk (the random control)."""

    dims: tuple[tuple[int, ...], ...]

    def key(self) -> Any:
        """See :class:`Condition`."""
        return {"per_block": [list(dims) for dims in self.dims]}

    def applied(
        self, model: "nn.Module", anatomy: "Anatomy", rows: Sequence[int], /
    ) -> AbstractContextManager[None]:
        """See :class:`Condition`."""
        from robustness.ablation import Ablation
        from robustness.hooks import ablated, ablated_rows

        if len(rows) == 1:
            return ablated(model, anatomy.stack, Ablation(dims=self.dims[rows[0]]))
        return ablated_rows(model, anatomy.stack, [self.dims[row] for row in rows])


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What became of the corpus.

    Attributes:
        n_blocks: text blocks.
        n_tokens: their tokens, special tokens included.
        split_examples: examples longer than a text block, split there.
        dropped_tokens: tokens at the end that filled no text block.
        unknown_tokens: tokens for text that the tokenizer does not know.
    """

    n_blocks: int
    n_tokens: int
    split_examples: int
    dropped_tokens: int
    unknown_tokens: int


def library_versions() -> dict[str, str]:
    """Versions of what computes the numbers, from package metadata: nothing is imported."""
    found = {}
    for name in ("torch", "transformers", "tokenizers", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


class Measurement:
    """One checkpoint on one corpus: NLLs per chunk of text blocks, each measured once.

    The model, the tokenizer and their libraries are loaded when the first number is missing from
    the store, and not before.

    Args:
        checkpoint: what is measured.
        corpus: the text.
        examination: where the model can be ablated.
        block_size: tokens of a text block, special tokens included.
        seed: of the order of text blocks and of the masks.
        device: ``cpu``, ``cuda[:n]`` or ``mps``.
        dtype: the precision that may be used besides float32.
        newer_than: seconds since the epoch; what the store has from before is not used.
        threads: processor threads; ``None`` leaves the library's choice.
        store_root: folder of the store.
    """

    def __init__(
        self,
        *,
        checkpoint: "Checkpoint",
        corpus: "Corpus",
        examination: "Examination",
        block_size: int,
        seed: int,
        device: str,
        threads: int | None,
        store_root: Path,
        dtype: Dtype = "float32",
        newer_than: float | None = None,
    ) -> None:
        self.checkpoint = checkpoint
        self.corpus = corpus
        self.examination = examination
        self.block_size = min(block_size, checkpoint.max_positions or block_size)
        self.seed = seed
        self.device = device
        self.threads = threads
        self.dtype = dtype
        self._stores = {
            each: Store(store_root, self._context(each), newer_than=newer_than)
            for each in {FULL_PRECISION, dtype}
        }

    @property
    def store(self) -> Store:
        """Where the numbers in float32 are kept, and what does not depend on precision."""
        return self._stores[FULL_PRECISION]

    def _context(self, dtype: Dtype) -> dict[str, Any]:
        return {
            "method": METHOD,
            "weights": self.checkpoint.weights_hash,
            "config": self.checkpoint.config_hash,
            "tokenizer": self.checkpoint.tokenizer_hash,
            "architecture": self.checkpoint.architecture,
            "corpus": self.corpus.fingerprint,
            "scoring": self.checkpoint.scoring,
            "block_size": self.block_size,
            "chunk_blocks": CHUNK_BLOCKS,
            "seed": self.seed,
            "dtype": dtype,
            "device": self.device.split(":")[0],
            "versions": library_versions(),
        }

    @cached_property
    def _sites(self) -> str:
        """Identifies the places that an ablation acts on: tracing may find others one day."""
        return digest(dict(self.examination.anatomy_record))

    # ---------------------------------------------------------------- what is measured

    @cached_property
    def layout(self) -> Layout:
        """Sizes of the corpus in text blocks (from the store where known)."""
        (record,) = self.store.obtain([{"layout": 2}], self._measure_layout)
        return Layout(**record)

    @cached_property
    def order(self) -> NDArray[np.int64]:
        """Corpus indices of the text blocks in the order of measurement, shape (n_blocks,)."""
        return block_order(
            self.layout.n_blocks, seed=self.seed, fingerprint=self.corpus.fingerprint
        )

    @property
    def n_chunks(self) -> int:
        """Chunks in the corpus; the last may be short."""
        return -(-self.layout.n_blocks // CHUNK_BLOCKS)

    def chunk(
        self, index: int, *conditions: Condition, dtype: Dtype = FULL_PRECISION
    ) -> list[ChunkNLL]:
        """One chunk of the seeded order under each of the conditions.

        Args:
            index: of the chunk.
            conditions: what is done to the model.
            dtype: precision to measure in: float32, or that of this measurement.

        Raises:
            MeasurementError: if a value is NaN, or infinite although the model is intact.
        """
        store = self._stores[dtype]
        # The intact model first: its batches are those of every ablation of the chunk.
        (intact,) = store.obtain(
            [self._chunk_key(index, Intact())], lambda _: self._measure_intact(index, dtype)
        )
        by_key = {self._chunk_key(index, condition)["id"]: condition for condition in conditions}
        records = store.obtain(
            [self._chunk_key(index, condition) for condition in conditions],
            lambda key: self._measure_ablated(index, by_key[key["id"]], intact, dtype),
        )
        return [
            self._checked(record, condition)
            for record, condition in zip(records, conditions, strict=True)
        ]

    def _chunk_key(self, index: int, condition: Condition) -> dict[str, Any]:
        found = condition.key()
        key = found if found is None else {**found, "sites": self._sites}
        return {"chunk": index, "id": canonical_json(key)}

    def _checked(self, record: Mapping[str, Any], condition: Condition) -> ChunkNLL:
        nll = np.array(record["nll_nats"], dtype=np.float64)
        if np.isnan(nll).any() or (isinstance(condition, Intact) and np.isinf(nll).any()):
            state = "intact" if isinstance(condition, Intact) else "ablated"
            raise MeasurementError(
                f"the {state} model's negative log-likelihood is not a finite number on "
                f"{int((~np.isfinite(nll)).sum())} of {len(nll)} text blocks: its weights or "
                "activations overflow or hold NaN"
            )
        return ChunkNLL(nll_nats=nll, tokens=np.array(record["tokens"], dtype=np.int64))

    # ---------------------------------------------------------------- measuring

    @cached_property
    def _tokenizer(self) -> Any:
        return self.checkpoint.load_tokenizer()

    @cached_property
    def _blocks(self) -> "TextBlocks":
        from robustness.blocks import text_blocks

        return text_blocks(self.corpus, self._tokenizer, block_size=self.block_size)

    def _measure_layout(self, _: Mapping[str, Any]) -> Record:
        blocks = self._blocks
        self.checkpoint.require_unchanged()
        return {
            "n_blocks": len(blocks.ids),
            "n_tokens": sum(map(len, blocks.ids)),
            "split_examples": blocks.split_examples,
            "dropped_tokens": blocks.dropped_tokens,
            "unknown_tokens": blocks.unknown_tokens,
        }

    @cached_property
    def _execution(self) -> "Execution":
        from robustness.execution import Execution

        return Execution(
            load=partial(self.checkpoint.load_model, device=self.device),
            anatomy=self.examination.anatomy,
            pad_id=getattr(self._tokenizer, "pad_token_id", None) or 0,
            device=self.device,
            threads=self.threads,
        )

    def _scored_block(self, block: int) -> "ScoredBlock":
        from robustness.scoring import causal_block, masked_block

        ids, special = self._blocks.ids[block], self._blocks.special[block]
        if self.checkpoint.scoring == "causal":
            return causal_block(ids)
        return masked_block(
            ids,
            special,
            mask_id=self._tokenizer.mask_token_id,
            seed=self.seed,
            fingerprint=self.corpus.fingerprint,
            block=block,
        )

    def _chunk_blocks(self, index: int) -> "list[ScoredBlock]":
        members = self.order[index * CHUNK_BLOCKS : (index + 1) * CHUNK_BLOCKS]
        return [self._scored_block(int(block)) for block in members]

    def _measure_intact(self, index: int, dtype: Dtype) -> Record:
        blocks = self._chunk_blocks(index)
        execution = self._execution
        nll, most_tokens = execution.run(blocks, [Intact()], execution.most_tokens, dtype)
        return self._record(blocks, nll[0], most_tokens)

    def _measure_ablated(
        self, index: int, condition: Condition, intact: Record, dtype: Dtype
    ) -> Record:
        """An ablation of a chunk, in the batches that the intact model ran in.

        Where memory does not allow these (any more, or in this process), both run in smaller ones,
        and what is kept is the stored intact value plus the difference of the two: differences are
        what verdicts are about, and they stay those of identical batches in every process.
        """
        blocks = self._chunk_blocks(index)
        execution, stored = self._execution, intact.get("most_tokens")
        allowed = min(execution.most_tokens, stored or execution.most_tokens)
        nll: Sequence[NDArray[np.float64]] = ()
        if allowed == stored:
            nll, allowed = execution.run(blocks, [condition], allowed, dtype)
        if allowed != stored:
            both = [Intact(), condition]
            (same, ablated), allowed = execution.run(blocks, both, allowed, dtype)
            nll = [np.array(intact["nll_nats"]) + (ablated - same)]
        return self._record(blocks, nll[0], allowed)

    def _record(
        self, blocks: "Sequence[ScoredBlock]", nll: NDArray[np.float64], most_tokens: int
    ) -> Record:
        self.checkpoint.require_unchanged()
        tokens = [len(block.targets) for block in blocks]
        return {"nll_nats": nll.tolist(), "tokens": tokens, "most_tokens": most_tokens}
