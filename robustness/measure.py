"""What turns (checkpoint, corpus, ablation) into stored negative log-likelihoods."""

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from robustness.errors import MeasurementError
from robustness.sampling import block_order
from robustness.scoring.replaced import entropy_nats
from robustness.store import Record, Store, canonical_json, digest
from robustness.text_size import TextSizes

if TYPE_CHECKING:
    from torch import nn

    from robustness.ablation import Ablation
    from robustness.anatomy import Anatomy
    from robustness.blocks import TextBlocks
    from robustness.checkpoint import Checkpoint
    from robustness.corpus import Corpus
    from robustness.detection import Examination
    from robustness.discriminator import Discriminator, Sampler
    from robustness.forward import Scorer
    from robustness.scoring.options import ScoringOptions
    from robustness.scoring.questions import Questions

CHUNK_BLOCKS = 16
"""Text blocks in a chunk, the unit that is stored and after which a decision is looked at."""

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
        self, model: "nn.Module", anatomy: "Anatomy", rows: Sequence[int], /
    ) -> AbstractContextManager[None]:
        """The context in which rows of the chunk's text blocks ``rows`` run as one batch.

        A text block that is asked about in several rows is named once for each.
        """


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

        if len(set(rows)) == 1:
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
        generator: "Checkpoint | None" = None,
    ) -> None:
        self.checkpoint = checkpoint
        self.corpus = corpus
        self.examination = examination
        self.block_size = min(block_size, checkpoint.max_positions or block_size)
        self.seed = seed
        self.device = device
        self.threads = threads
        self.options = options
        self.generator = generator
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
            **self.options.key(),
            **({} if self.generator is None else {"generator": self.generator.identity}),
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

    def chunk(self, index: int, *conditions: Condition) -> list[ChunkNLL]:
        """One chunk of the seeded order under each of the conditions.

        Raises:
            MeasurementError: if a value is NaN, or infinite although the model is intact.
        """
        by_key = {self._chunk_key(index, condition)["id"]: condition for condition in conditions}
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

    @cached_property
    def _scorer(self) -> "Scorer | Discriminator":
        import torch

        from robustness.discriminator import Discriminator
        from robustness.forward import Scorer

        if self.threads is not None:
            torch.set_num_threads(self.threads)
        pad_id = getattr(self._tokenizer, "pad_token_id", None)
        found = Discriminator if self.checkpoint.scoring == "replaced-token" else Scorer
        return found(self.checkpoint.load_model(device=self.device), pad_id=pad_id or 0)

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

    def _measure_chunk(self, index: int, condition: Condition) -> Record:
        from robustness.forward import micro_batches

        members = self.order[index * CHUNK_BLOCKS : (index + 1) * CHUNK_BLOCKS]
        groups = [self._questions.rows(int(block)) for block in members]
        rows = [row for group in groups for row in group]
        owner = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
        nll, tokens = np.zeros(len(groups)), np.zeros(len(groups), dtype=np.int64)
        np.add.at(tokens, owner, [len(row.targets) for row in rows])
        scorer = self._scorer
        lengths = [row.length for row in rows]
        for batch in micro_batches(
            lengths, vocab_size=self.checkpoint.vocab_size, most_rows=CHUNK_BLOCKS
        ):
            for part in self._separated(batch, owner, condition):
                members_of = owner[part].tolist()
                with condition.applied(scorer.model, self.examination.anatomy, members_of):
                    np.add.at(nll, members_of, scorer.nll_nats([rows[row] for row in part]))
        self.checkpoint.require_unchanged()
        return {"nll_nats": nll.tolist(), "tokens": tokens.tolist()}

    def _separated(
        self, rows: list[int], owner: NDArray[np.int64], condition: Condition
    ) -> list[list[int]]:
        """Rows that need different ablations, apart where the site hides its batch axis."""
        sites = self.examination.anatomy.stack.sites
        if isinstance(condition, PerBlock) and any(site.batch_axis is None for site in sites):
            blocks = dict.fromkeys(owner[rows].tolist())
            return [[row for row in rows if owner[row] == block] for block in blocks]
        return [rows]
