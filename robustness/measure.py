"""What turns (checkpoint, corpus, ablation) into stored negative log-likelihoods."""

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, partial
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from robustness.ablation import MEAN_BLOCKS, Ablation
from robustness.dtypes import Dtype
from robustness.errors import MeasurementError
from robustness.sampling import block_order
from robustness.scoring.replaced import entropy_nats
from robustness.store import Record, Store, canonical_json, digest
from robustness.text_size import TextSizes

if TYPE_CHECKING:
    from torch import nn

    from robustness.blocks import TextBlocks
    from robustness.checkpoint import Checkpoint
    from robustness.corpus import Corpus
    from robustness.detection import Examination
    from robustness.discriminator import Sampler
    from robustness.execution import Execution
    from robustness.hooks import Means
    from robustness.scoring import AskedChunk
    from robustness.scoring.options import ScoringOptions
    from robustness.scoring.questions import Questions
    from robustness.stacks import Anatomy

CHUNK_BLOCKS = 16
"""Text blocks in a chunk, the unit that is stored and after which a decision is looked at."""

FULL_PRECISION: Dtype = "float32"

BASE_RATE_BLOCKS = 128
"""Text blocks, from the first in the seeded order, whose replaced tokens make the base rate."""

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
        """The context in which rows of the chunk's text blocks ``rows`` run as one batch.

        A text block that is asked about in several rows is named once for each. ``means`` are
        those of the intact model, where they are needed.
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

        if len(set(rows)) == 1:
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
        begins_with: the special token that text blocks begin with, if any.
    """

    n_blocks: int
    n_tokens: int
    split_examples: int
    dropped_tokens: int
    unknown_tokens: int
    begins_with: str | None


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
        options: how the model is scored, as far as that can be chosen.
        generator: a masked language model that replaces a discriminator's tokens.
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
        options: "ScoringOptions",
        dtype: Dtype = "float32",
        generator: "Checkpoint | None" = None,
        newer_than: float | None = None,
    ) -> None:
        self.checkpoint = checkpoint
        self.corpus = corpus
        self.examination = examination
        self.block_size = min(block_size, checkpoint.max_positions or block_size)
        self.seed = seed
        self.device = device
        self.threads = threads
        self.options = options
        self.dtype = dtype
        self.generator = generator
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
            **self.options.key(),
            **({} if self.generator is None else {"generator": self.generator.identity}),
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
        (record,) = self.store.obtain([{"layout": 3}], self._measure_layout)
        return Layout(**record)

    @cached_property
    def sizes(self) -> TextSizes | None:
        """Text per text block in the order of measurement; ``None`` where unknown."""
        (record,) = self.store.obtain([{"text_sizes": 1}], self._measure_sizes)
        if record["words"] is None:
            return None
        found = {name: np.array(values)[self.order] for name, values in record.items()}
        return TextSizes(**found)

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
        for condition in conditions:  # before a chunk is locked: nobody waits holding a lock
            if store.read(self._chunk_key(index, condition)) is None:
                self._means(condition.needs_means)
        records = store.obtain(
            [self._chunk_key(index, condition) for condition in conditions],
            lambda key: self._measure_ablated(index, by_key[key["id"]], intact, dtype),
        )
        return [
            self._checked(record, condition)
            for record, condition in zip(records, conditions, strict=True)
        ]

    def stored(self, index: int, condition: Condition) -> ChunkNLL | None:
        """One chunk if it has been measured; nothing is measured or loaded."""
        record = self.store.read(self._chunk_key(index, condition))
        return None if record is None else self._checked(record, condition)

    @cached_property
    def text_blocks_sha256(self) -> str:
        """Identifies the text blocks: two checkpoints with the same can be compared paired."""
        (record,) = self.store.obtain([{"text_blocks": 1}], self._hash_text_blocks)
        return str(record["sha256"])

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

        return text_blocks(
            self.corpus,
            self._tokenizer,
            block_size=self.block_size,
            bos=self.options.bos,
            context=self.options.context,
        )

    def _measure_layout(self, _: Mapping[str, Any]) -> Record:
        blocks = self._blocks
        self._questions.require_answerable()
        self.checkpoint.require_unchanged()
        return {
            "n_blocks": len(blocks.ids),
            "n_tokens": sum(map(len, blocks.ids)),
            "split_examples": blocks.split_examples,
            "dropped_tokens": blocks.dropped_tokens,
            "unknown_tokens": blocks.unknown_tokens,
            "begins_with": blocks.begins_with,
        }

    def _measure_sizes(self, _: Mapping[str, Any]) -> Record:
        sizes = self._blocks.sizes
        self.checkpoint.require_unchanged()
        return {
            name: None if sizes is None else getattr(sizes, name).tolist()
            for name in ("tokens", "words", "utf8_bytes")
        }

    def _hash_text_blocks(self, _: Mapping[str, Any]) -> Record:
        found = sha256()
        for ids, special in zip(self._blocks.ids, self._blocks.special, strict=True):
            found.update(len(ids).to_bytes(8, "little"))
            found.update(ids.astype("<i8").tobytes() + special.astype("<i1").tobytes())
        self.checkpoint.require_unchanged()
        return {"sha256": found.hexdigest()}

    @cached_property
    def _execution(self) -> "Execution":
        from robustness.execution import Execution

        return Execution(
            load=partial(self.checkpoint.load_model, device=self.device),
            scoring=self.checkpoint.scoring,
            anatomy=self.examination.anatomy,
            pad_id=getattr(self._tokenizer, "pad_token_id", None) or 0,
            device=self.device,
            threads=self.threads,
        )

    @cached_property
    def _questions(self) -> "Questions":
        from robustness.scoring.questions import Questions

        return Questions(
            scoring=self.checkpoint.scoring,
            options=self.options,
            blocks=self._blocks,
            tokenizer=self._tokenizer,
            seed=self.seed,
            fingerprint=self.corpus.fingerprint,
            generated=None if self.generator is None else self._generated,
        )

    # ---------------------------------------------------------------- replaced tokens

    @cached_property
    def chance_nats(self) -> float:
        """Mean NLL per scored token of a guess that looks at no text.

        Uniform over the vocabulary; for a discriminator, at the base rate of replaced tokens.
        """
        if self.checkpoint.scoring != "replaced-token":
            return math.log(self.checkpoint.vocab_size)
        (record,) = self.store.obtain([{"base_rate": BASE_RATE_BLOCKS}], self._measure_base_rate)
        return entropy_nats(record["replaced"] / record["tokens"])

    def _measure_base_rate(self, _: Mapping[str, Any]) -> Record:
        blocks = self.order[:BASE_RATE_BLOCKS].tolist()
        targets = [row.targets for block in blocks for row in self._questions.rows(block)]
        return {"replaced": int(sum(map(np.sum, targets))), "tokens": sum(map(len, targets))}

    def _generated(self, block: int) -> NDArray[np.int64]:
        """The generator's tokens for one text block, the same in every process."""
        chunk, place = divmod(int(np.flatnonzero(self.order == block)[0]), CHUNK_BLOCKS)
        (record,) = self.store.obtain([{"replacements": chunk}], self._generate)
        return np.array(record["tokens"][place], dtype=np.int64)

    def _generate(self, key: Mapping[str, Any]) -> Record:
        sample = self._sampler
        start = key["replacements"] * CHUNK_BLOCKS
        blocks = self.order[start : start + CHUNK_BLOCKS].tolist()
        tokens = [sample(self._questions, block).tolist() for block in blocks]
        return {"tokens": tokens}

    @cached_property
    def _sampler(self) -> "Sampler":
        from robustness.discriminator import Sampler

        assert self.generator is not None
        return Sampler(
            self.generator,
            tokenizer=self._tokenizer,
            device=self.device,
            seed=self.seed,
            fingerprint=self.corpus.fingerprint,
        )

    # ---------------------------------------------------------------- forward passes

    def _asked(self, index: int) -> "AskedChunk":
        from robustness.scoring import AskedChunk

        members = self.order[index * CHUNK_BLOCKS : (index + 1) * CHUNK_BLOCKS]
        return AskedChunk.of([self._questions.rows(int(block)) for block in members])

    def _measure_intact(self, index: int, dtype: Dtype) -> Record:
        chunk = self._asked(index)
        execution = self._execution
        nll, most_tokens = execution.run(chunk, [Intact()], execution.most_tokens, dtype)
        return self._record(chunk, nll[0], most_tokens)

    def _measure_ablated(
        self, index: int, condition: Condition, intact: Record, dtype: Dtype
    ) -> Record:
        """An ablation of a chunk, in the batches that the intact model ran in.

        Where memory does not allow these (any more, or in this process), both run in smaller ones,
        and what is kept is the stored intact value plus the difference of the two: differences are
        what verdicts are about, and they stay those of identical batches in every process.
        """
        chunk = self._asked(index)
        execution, stored = self._execution, intact.get("most_tokens")
        allowed = min(execution.most_tokens, stored or execution.most_tokens)
        means = self._means(condition.needs_means)
        nll: Sequence[NDArray[np.float64]] = ()
        if allowed == stored:
            nll, allowed = execution.run(chunk, [condition], allowed, dtype, means)
        if allowed != stored:
            both = [Intact(), condition]
            (same, ablated), allowed = execution.run(chunk, both, allowed, dtype, means)
            nll = [np.array(intact["nll_nats"]) + (ablated - same)]
        return self._record(chunk, nll[0], allowed)

    def _record(self, chunk: "AskedChunk", nll: NDArray[np.float64], most_tokens: int) -> Record:
        self.checkpoint.require_unchanged()
        return {
            "nll_nats": nll.tolist(),
            "tokens": chunk.tokens.tolist(),
            "most_tokens": most_tokens,
        }

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
        chunk, execution = self._asked(index), self._execution
        means = self._means(each[0].needs_means)
        nll = execution.layer_by_layer(chunk, each, means)
        self.checkpoint.require_unchanged()
        return {"nll_nats": nll.tolist(), "tokens": chunk.tokens.tolist()}

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
        questions = [self._questions.rows(int(block)) for block in self.order[:MEAN_BLOCKS]]
        sums = self._execution.feature_sums([row for rows in questions for row in rows], ablation)
        self.checkpoint.require_unchanged()
        means = {str(layer): (one.total / one.count).tolist() for layer, one in sums.items()}
        if not all(np.isfinite(mean).all() for mean in means.values()):
            raise MeasurementError(
                "the intact model's mean features are not finite numbers, so no feature can be "
                "replaced by its mean: use the mode 'zero'"
            )
        return {"means": means}
