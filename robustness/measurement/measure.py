"""What turns (checkpoint, corpus, ablation) into stored negative log-likelihoods."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robustness.ablation.ablation import Ablation
from robustness.ablation.interventions import FixedAblation, Intact, Intervention
from robustness.corpus.block_cache import block_context
from robustness.measurement.stored import StoredMeasurement, not_finite
from robustness.runtime.devices import Dtype
from robustness.runtime.libraries import library_versions
from robustness.scoring.scoring_plan import CHUNK_BLOCKS, Layout, ScoringPlan
from robustness.store.store import Record, canonical_json

if TYPE_CHECKING:
    from robustness.checkpoint.checkpoint import Checkpoint
    from robustness.corpus.corpus import Corpus
    from robustness.measurement.execution import Execution
    from robustness.outliers.model_profile import ModelProfile
    from robustness.scoring.block import PlannedChunk, ScoredBlock
    from robustness.scoring.examples import Example
    from robustness.scoring.options import ScoringOptions

FULL_PRECISION: Dtype = "float32"

EXAMPLES = 1
"""Version of what an example is; part of its identity in the store."""

METHOD = 1
"""Version of the protocol (docs/PROTOCOL.md); part of every stored number's identity."""


@dataclass(frozen=True, kw_only=True)
class ChunkNLL:
    """Summed NLL in nats, and scored tokens, per text block of a chunk, shapes (n,)."""

    nll_nats: NDArray[np.float64]
    tokens: NDArray[np.int64]


@dataclass(kw_only=True, eq=False, repr=False)
class Measurement(StoredMeasurement):
    """One checkpoint on one corpus: NLLs per chunk of text blocks, each measured once.

    Attributes:
        corpus: the text.
        model_profile: where the model can be ablated.
        block_size: tokens of a text block, special tokens included.
        options: how the model is scored, as far as that can be chosen.
        dtype: the precision that may be used besides float32.
        generator: a masked language model that replaces a discriminator's tokens.
    """

    chunk_key = "chunk"
    means_key = "blocks"

    anatomy_record: Mapping[str, Any] = field(init=False)
    corpus: "Corpus"
    model_profile: "ModelProfile"
    block_size: int
    options: "ScoringOptions"
    dtype: Dtype = FULL_PRECISION
    generator: "Checkpoint | None" = None

    def __post_init__(self) -> None:
        """Find the places in the store of what is measured in either precision."""
        self.anatomy_record = self.model_profile.anatomy_record
        self.block_size = min(self.block_size, self.checkpoint.max_positions or self.block_size)
        blocks = block_context(
            self.checkpoint,
            self.corpus,
            block_size=self.block_size,
            bos=self.options.bos,
            context=self.options.context,
        )
        self._block_store = self.context.store(blocks)
        precisions = {FULL_PRECISION, self.dtype}
        self._stores = {each: self.context.store(self._identity(each)) for each in precisions}
        self.store = self._stores[FULL_PRECISION]

    @property
    def unwritable(self) -> str | None:
        """Why not all that is measured can be kept, if so."""
        return self.store.unwritable or self._block_store.unwritable

    def _identity(self, dtype: Dtype) -> dict[str, Any]:
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
    def scoring_plan(self) -> ScoringPlan:
        """The corpus in text blocks, and what is asked about them."""
        return ScoringPlan(
            checkpoint=self.checkpoint,
            corpus=self.corpus,
            block_size=self.block_size,
            seed=self.seed,
            device=self.device,
            options=self.options,
            generator=self.generator,
            store=self.store,
            block_store=self._block_store,
        )

    @property
    def layout(self) -> Layout:
        """Sizes of the corpus in text blocks."""
        return self.scoring_plan.layout

    @property
    def order(self) -> NDArray[np.int64]:
        """Corpus indices of the text blocks in the order of measurement, shape (n_blocks,)."""
        return self.scoring_plan.order

    @property
    def n_chunks(self) -> int:
        """Chunks in the corpus; the last may be short."""
        return self.scoring_plan.n_chunks

    def chunk(
        self, index: int, *interventions: Intervention, dtype: Dtype = FULL_PRECISION
    ) -> list[ChunkNLL]:
        """One chunk of the seeded order under each of the interventions.

        Measured in float32, or in the ``dtype`` of this measurement.

        Raises:
            MeasurementError: if a value is NaN, or infinite although the model is intact.
        """
        store = self._stores[dtype]
        self.scoring_plan.prepare(index)
        key_of = partial(self._key, index)
        if store.read(key_of(Intact())) is None:
            self._load()
            self._prepare(index)
        # The intact model first: its batches are those of every ablation of the chunk.
        (intact,) = self._obtained(
            [Intact()], key_of, lambda _: self._measure_intact(index, dtype), store
        )
        records = self._obtained(
            interventions,
            key_of,
            lambda intervention: self._measure_ablated(index, intervention, intact, dtype),
            store,
        )
        return [
            _checked(record, intervention)
            for record, intervention in zip(records, interventions, strict=True)
        ]

    def stored(self, index: int, intervention: Intervention) -> ChunkNLL | None:
        """One chunk if it has been measured; nothing is measured or loaded."""
        record = self.store.read(self._key(index, intervention))
        return None if record is None else _checked(record, intervention)

    @cached_property
    def _execution(self) -> "Execution":
        from robustness.measurement.execution import Execution

        return Execution(
            load_model=partial(self.checkpoint.load_model, device=self.device),
            scoring=self.checkpoint.scoring,
            anatomy=self.model_profile.anatomy,
            pad_id=self.scoring_plan.pad_id,
            device=self.device,
            threads=self.context.threads,
        )

    def _load(self) -> None:
        """Have model and text blocks at hand before a lock is taken or waited for.

        Of several processes one measures the first chunk, and the others load meanwhile.
        """
        self.scoring_plan.load()
        self._execution.load()

    def _first_rows(self, number: int) -> "list[ScoredBlock]":
        return self.scoring_plan.rows(self.order[:number].tolist())

    def _measure_intact(self, index: int, dtype: Dtype) -> Record:
        chunk, execution = self.scoring_plan.chunk(index), self._execution
        nll, most_tokens = execution.run(chunk, [Intact()], execution.most_tokens, dtype)
        return record_of(chunk, nll[0], most_tokens=most_tokens)

    def _measure_ablated(
        self, index: int, intervention: Intervention, intact: Record, dtype: Dtype
    ) -> Record:
        """An ablation of a chunk, in the batches that the intact model ran in.

        Where memory does not allow these (any more, or in this process), both run in smaller ones,
        and what is kept is the stored intact value plus the difference of the two: differences are
        what verdicts are about, and they stay those of identical batches in every process.
        """
        chunk, execution = self.scoring_plan.chunk(index), self._execution
        stored = intact.get("most_tokens")
        allowed = min(execution.most_tokens, stored or execution.most_tokens)
        means = self._means(intervention)
        nll: Sequence[NDArray[np.float64]] = ()
        if allowed == stored:
            nll, allowed = execution.run(chunk, [intervention], allowed, dtype, means)
        if allowed != stored:
            both = [Intact(), intervention]
            (same, ablated), allowed = execution.run(chunk, both, allowed, dtype, means)
            nll = [np.array(intact["nll_nats"]) + (ablated - same)]
        return record_of(chunk, nll[0], most_tokens=allowed)

    def layer_chunk(self, index: int, ablation: Ablation) -> list[ChunkNLL]:
        """One chunk of the seeded order with an ablation in each layer alone, by layer.

        Each layer's run starts from what the intact model handed it, where that is possible.
        """
        layers = range(self.model_profile.layers)
        interventions = [
            FixedAblation(ablation=replace(ablation, layers=(layer,))) for layer in layers
        ]
        alike = {name: value for name, value in ablation.key().items() if name != "layers"}
        key = {"chunk": index, "id": canonical_json({**alike, "each_layer": self._sites})}

        def measure(first: Intervention) -> Record:
            chunk = self.scoring_plan.chunk(index)
            return record_of(
                chunk, self._execution.layer_by_layer(chunk, interventions, self._means(first))
            )

        if self.store.read(key) is None:
            self._prepare(index)
        (record,) = self._obtained(interventions[:1], lambda _: key, measure)
        return [
            _checked({"nll_nats": nll, "tokens": record["tokens"]}, intervention)
            for nll, intervention in zip(record["nll_nats"], interventions, strict=True)
        ]

    def changed_predictions(self, index: int, intervention: Intervention) -> NDArray[np.int64]:
        """At how many scored positions of each text block of a chunk another token is predicted.

        Raises:
            MeasurementError: if a model predicts nothing, since its logits are not numbers.
        """
        key = {**self._key(index, intervention), "changed_predictions": 1}

        def measure(_: Intervention) -> Record:
            chunk, means = self.scoring_plan.chunk(index), self._means(intervention)
            changed = self._execution.changed_predictions(chunk, intervention, means)
            return {"changed": changed.tolist(), "tokens": chunk.tokens.tolist()}

        if self.store.read(key) is None:
            self._prepare(index)
        (record,) = self._obtained([intervention], lambda _: key, measure)
        return np.array(record["changed"], dtype=np.int64)

    def _prepare(self, index: int) -> None:
        """Have at hand what a chunk needs, before anything is locked for it."""
        self.scoring_plan.prepare(index)

    def examples(self, ablation: Ablation, *, number: int) -> "list[Example]":
        """What the intact and the ablated model say about pieces of the first text blocks.

        None where the model's way of scoring has no such examples.
        """
        from robustness.scoring.examples import SCORINGS

        if not number or self.checkpoint.scoring not in SCORINGS:
            return []
        intervention = FixedAblation(ablation=ablation)
        key = {"examples": EXAMPLES, "number": number, "id": self._id(intervention)}
        (record,) = self._obtained(
            [intervention], lambda _: key, lambda _: self._measure_examples(intervention, number)
        )
        examples: list[Example] = record["examples"]
        return examples

    def _measure_examples(self, intervention: FixedAblation, number: int) -> Record:
        from robustness.scoring.examples import example

        means = self._means(intervention)
        blocks = self.order[: 4 * number].tolist()  # more, should one have nothing to show
        shown = filter(None, map(self.scoring_plan.excerpt, blocks))
        examples = [
            example(
                each,
                self._execution.guesses(each.rows, Intact()),
                self._execution.guesses(each.rows, intervention, means),
                decode=self.scoring_plan.decode,
                dims=intervention.ablation.dims,
                seed=self.seed,
            )
            for each in islice(shown, number)
        ]
        return {"examples": examples}


def record_of(chunk: "PlannedChunk", nll_nats: NDArray[np.float64], **more: int) -> Record:
    """What is kept of a chunk's text blocks: NLLs, scored tokens, and more."""
    return {"nll_nats": nll_nats.tolist(), "tokens": chunk.tokens.tolist(), **more}


def _checked(record: Mapping[str, Any], intervention: Intervention) -> ChunkNLL:
    nll = np.array(record["nll_nats"], dtype=np.float64)
    if np.isnan(nll).any() or (isinstance(intervention, Intact) and np.isinf(nll).any()):
        raise not_finite(
            intervention,
            "negative log-likelihood is not a finite number on "
            f"{int((~np.isfinite(nll)).sum())} of {len(nll)} text blocks",
        )
    return ChunkNLL(nll_nats=nll, tokens=np.array(record["tokens"], dtype=np.int64))
