"""What turns (checkpoint, corpus, ablation) into stored negative log-likelihoods."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from robustness.ablation import MEAN_BLOCKS, Ablation
from robustness.errors import MeasurementError
from robustness.sampling import block_order
from robustness.store import Record, Store, canonical_json, digest

if TYPE_CHECKING:
    from torch import nn

    from robustness.blocks import TextBlocks
    from robustness.checkpoint import Checkpoint
    from robustness.corpus import Corpus
    from robustness.detection import Examination
    from robustness.forward import Scorer
    from robustness.hooks import Means
    from robustness.scoring import ScoredBlock
    from robustness.stacks import Anatomy

CHUNK_BLOCKS = 16
"""Text blocks in a chunk, the unit that is stored and after which a decision is looked at."""

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
        self,
        model: "nn.Module",
        anatomy: "Anatomy",
        rows: Sequence[int],
        /,
        means: "Means | None" = None,
    ) -> AbstractContextManager[None]:
        """The context in which the chunk's text blocks ``rows`` run as one batch.

        ``means`` are those of the intact model, where they are needed.
        """

    @property
    def needs_means(self) -> Ablation | None:
        """The ablation at whose places the intact model's means are needed, or ``None``."""


@dataclass(frozen=True, kw_only=True)
class Intact:
    """Nothing is done."""

    def key(self) -> Any:
        """See :class:`Condition`."""
        return None

    def applied(
        self,
        _model: "nn.Module",
        _anatomy: "Anatomy",
        _rows: Sequence[int],
        /,
        means: "Means | None" = None,  # noqa: ARG002
    ) -> AbstractContextManager[None]:
        """See :class:`Condition`."""
        return nullcontext()

    @property
    def needs_means(self) -> None:
        """See :class:`Condition`."""
        return


@dataclass(frozen=True, kw_only=True)
class Fixed:
    """One ablation for all text blocks."""

    ablation: Ablation

    def key(self) -> Any:
        """See :class:`Condition`."""
        return self.ablation.key()

    def applied(
        self,
        model: "nn.Module",
        anatomy: "Anatomy",
        _rows: Sequence[int],
        /,
        means: "Means | None" = None,
    ) -> AbstractContextManager[None]:
        """See :class:`Condition`."""
        from robustness.hooks import ablated

        return ablated(model, anatomy.stack, self.ablation, means)

    @property
    def needs_means(self) -> Ablation | None:
        """See :class:`Condition`."""
        return self.ablation if self.ablation.mode == "mean" else None


@dataclass(frozen=True, kw_only=True)
class PerBlock:
    """Other dimensions for each text block of the chunk (the random control).

    Attributes:
        dims: of each text block.
        like: where and how they are ablated, its own dimensions aside.
    """

    dims: tuple[tuple[int, ...], ...]
    like: Ablation

    def key(self) -> Any:
        """See :class:`Condition`."""
        place = {name: value for name, value in self.like.key().items() if name != "dims"}
        return {**place, "per_block": [list(dims) for dims in self.dims]}

    def applied(
        self,
        model: "nn.Module",
        anatomy: "Anatomy",
        rows: Sequence[int],
        /,
        means: "Means | None" = None,
    ) -> AbstractContextManager[None]:
        """See :class:`Condition`."""
        from robustness.hooks import ablated, ablated_rows

        if len(rows) == 1:
            alone = replace(self.like, dims=self.dims[rows[0]])
            return ablated(model, anatomy.stack, alone, means)
        dims = [self.dims[row] for row in rows]
        return ablated_rows(model, anatomy.stack, dims, like=self.like, means=means)

    @property
    def needs_means(self) -> Ablation | None:
        """See :class:`Condition`."""
        return self.like if self.like.mode == "mean" else None


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
    ) -> None:
        self.checkpoint = checkpoint
        self.corpus = corpus
        self.examination = examination
        self.block_size = min(block_size, checkpoint.max_positions or block_size)
        self.seed = seed
        self.device = device
        self.threads = threads
        self.store = Store(store_root, self._context())

    def _context(self) -> dict[str, Any]:
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
            "dtype": "float32",
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

    def chunk(self, index: int, *conditions: Condition) -> list[ChunkNLL]:
        """One chunk of the seeded order under each of the conditions.

        Raises:
            MeasurementError: if a value is NaN, or infinite although the model is intact.
        """
        by_key = {self._chunk_key(index, condition)["id"]: condition for condition in conditions}
        for condition in conditions:  # before a chunk is locked: nobody waits holding a lock
            if self.store.read(self._chunk_key(index, condition)) is None:
                self._means(condition.needs_means)
        records = self.store.obtain(
            [self._chunk_key(index, condition) for condition in conditions],
            lambda key: self._measure_chunk(index, by_key[key["id"]]),
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
    def _scorer(self) -> "Scorer":
        import torch

        from robustness.forward import Scorer

        if self.threads is not None:
            torch.set_num_threads(self.threads)
        pad_id = getattr(self._tokenizer, "pad_token_id", None)
        return Scorer(self.checkpoint.load_model(device=self.device), pad_id=pad_id or 0)

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

    def _measure_chunk(self, index: int, condition: Condition) -> Record:
        from robustness.forward import micro_batches

        members = self.order[index * CHUNK_BLOCKS : (index + 1) * CHUNK_BLOCKS]
        blocks = [self._scored_block(int(block)) for block in members]
        nll = np.empty(len(blocks))
        scorer = self._scorer
        means = self._means(condition.needs_means)
        lengths = [len(block.ids) for block in blocks]
        for rows in micro_batches(lengths, vocab_size=self.checkpoint.vocab_size):
            for batch in self._separated(rows, condition):
                with condition.applied(scorer.model, self.examination.anatomy, batch, means):
                    nll[batch] = scorer.nll_nats([blocks[row] for row in batch])
        self.checkpoint.require_unchanged()
        return {"nll_nats": nll.tolist(), "tokens": [len(block.targets) for block in blocks]}

    def _separated(self, rows: list[int], condition: Condition) -> list[list[int]]:
        """Rows that need different ablations, one by one where the site hides its batch axis."""
        if isinstance(condition, PerBlock):
            sites = self.examination.anatomy.stack.at(condition.like.site)
            if any(site.batch_axis is None for site in sites):
                return [[row] for row in rows]
        return [rows]

    # ---------------------------------------------------------------- layer by layer

    def layer_chunk(self, index: int, ablation: Ablation) -> list[ChunkNLL]:
        """One chunk of the seeded order with an ablation in each layer alone, by layer.

        Raises:
            MeasurementError: if a value is NaN.
        """
        each = self._each_layer(ablation)
        alike = {name: value for name, value in ablation.key().items() if name != "layers"}
        key = {"chunk": index, "id": canonical_json({**alike, "each_layer": self._sites})}
        if self.store.read(key) is None:
            self._means(each[0].needs_means)
        (record,) = self.store.obtain([key], lambda _: self._measure_layers(index, each))
        return [
            self._checked({"nll_nats": nll, "tokens": record["tokens"]}, condition)
            for nll, condition in zip(record["nll_nats"], each, strict=True)
        ]

    def _each_layer(self, ablation: Ablation) -> list[Fixed]:
        layers = range(self.examination.layers)
        return [Fixed(ablation=replace(ablation, layers=(layer,))) for layer in layers]

    def _measure_layers(self, index: int, each: Sequence[Fixed]) -> Record:
        """Each layer's run starts from what the intact model handed it, where that is possible."""
        from robustness.forward import micro_batches
        from robustness.resume import kept, resumed

        members = self.order[index * CHUNK_BLOCKS : (index + 1) * CHUNK_BLOCKS]
        blocks = [self._scored_block(int(block)) for block in members]
        scorer, anatomy = self._scorer, self.examination.anatomy
        means = self._means(each[0].needs_means)
        nll = np.empty((len(each), len(blocks)))
        lengths = [len(block.ids) for block in blocks]
        for rows in micro_batches(lengths, vocab_size=self.checkpoint.vocab_size):
            batch = [blocks[row] for row in rows]
            with kept(scorer.model, anatomy.stack) as known:
                scorer.nll_nats(batch)
            whole = known.passes != 1 or not anatomy.stack.resumable
            for layer, condition in enumerate(each):
                start = (
                    nullcontext() if whole else resumed(scorer.model, anatomy.stack, known, layer)
                )
                with start, condition.applied(scorer.model, anatomy, rows, means):
                    nll[layer, rows] = scorer.nll_nats(batch)
        self.checkpoint.require_unchanged()
        return {"nll_nats": nll.tolist(), "tokens": [len(block.targets) for block in blocks]}

    # ---------------------------------------------------------------- means

    def _means(self, ablation: Ablation | None) -> "Means | None":
        """The intact model's mean features where an ablation puts them, from the store if known."""
        if ablation is None:
            return None
        import torch

        place = {"site": ablation.site, "embeddings": ablation.embeddings}
        key = {"means": 1, "blocks": MEAN_BLOCKS, "sites": self._sites, **place}
        whole = replace(ablation, layers=None)
        (record,) = self.store.obtain([key], lambda _: self._measure_means(whole))
        return {int(layer): torch.tensor(mean) for layer, mean in record["means"].items()}

    def _measure_means(self, ablation: Ablation) -> Record:
        """Over all positions of text blocks that run one by one, so that there is no padding."""
        from robustness.hooks import summed

        scorer, stack = self._scorer, self.examination.anatomy.stack
        with summed(scorer.model, stack, ablation) as sums:
            for block in self.order[:MEAN_BLOCKS]:
                scorer.nll_nats([self._scored_block(int(block))])
        self.checkpoint.require_unchanged()
        means = {str(layer): (one.total / one.count).tolist() for layer, one in sums.items()}
        if not all(np.isfinite(mean).all() for mean in means.values()):
            raise MeasurementError(
                "the intact model's mean features are not finite numbers, so no feature can be "
                "replaced by its mean: use the mode 'zero'"
            )
        return {"means": means}
