"""What turns (checkpoint, corpus, ablation) into stored negative log-likelihoods."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robustness.ablation.ablation import MEAN_BLOCKS, Ablation
from robustness.ablation.interventions import (
    FixedAblation,
    Intact,
    Intervention,
    Quantized,
    stored_means,
)
from robustness.corpus.block_cache import block_context
from robustness.errors import MeasurementError
from robustness.runtime.devices import Dtype
from robustness.runtime.libraries import library_versions
from robustness.scoring.scoring_plan import CHUNK_BLOCKS, Layout, ScoringPlan
from robustness.store.context import Context
from robustness.store.store import Record, Store, canonical_json, digest

if TYPE_CHECKING:
    from robustness.ablation.edits import Sum
    from robustness.ablation.hooks import Means
    from robustness.checkpoint.checkpoint import Checkpoint
    from robustness.corpus.corpus import Corpus
    from robustness.measurement.execution import Execution
    from robustness.outliers.model_profile import ModelProfile
    from robustness.scoring.block import PlannedChunk
    from robustness.scoring.examples import Example
    from robustness.scoring.options import ScoringOptions

FULL_PRECISION: Dtype = "float32"

EXAMPLES = 1
"""Version of what an example is; part of its identity in the store."""

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


@dataclass(frozen=True, kw_only=True)
class ChunkChanges:
    """Changed predictions of one chunk, per text block in the seeded order.

    Attributes:
        changed: scored positions at which the model predicts another token, shape (n,).
        tokens: how many positions were scored, shape (n,).
    """

    changed: NDArray[np.int64]
    tokens: NDArray[np.int64]


class Measurement:
    """One checkpoint on one corpus: NLLs per chunk of text blocks, each measured once.

    The model, the tokenizer and their libraries are loaded when the first number is missing from
    the store, and not before.

    Args:
        checkpoint: what is measured.
        corpus: the text.
        model_profile: where the model can be ablated.
        block_size: tokens of a text block, special tokens included.
        seed: of the order of text blocks and of the masks.
        device: ``cpu``, ``cuda[:n]`` or ``mps``.
        dtype: the precision that may be used besides float32.
        context: of the run.
        options: how the model is scored, as far as that can be chosen.
        generator: a masked language model that replaces a discriminator's tokens.
    """

    def __init__(
        self,
        *,
        checkpoint: "Checkpoint",
        corpus: "Corpus",
        model_profile: "ModelProfile",
        block_size: int,
        seed: int,
        device: str,
        context: Context,
        options: "ScoringOptions",
        dtype: Dtype = "float32",
        generator: "Checkpoint | None" = None,
    ) -> None:
        self.checkpoint = checkpoint
        self.corpus = corpus
        self.model_profile = model_profile
        self.block_size = min(block_size, checkpoint.max_positions or block_size)
        self.seed = seed
        self.device = device
        self.threads = context.threads
        self.options = options
        self.dtype = dtype
        self.generator = generator
        bos, before = options.bos, options.context
        blocks = block_context(
            checkpoint, corpus, block_size=self.block_size, bos=bos, context=before
        )
        self._block_store = context.store(blocks)
        self._stores = {
            each: context.store(self._identity(each)) for each in {FULL_PRECISION, dtype}
        }

    @property
    def store(self) -> Store:
        """Where the numbers in float32 are kept, and what does not depend on precision."""
        return self._stores[FULL_PRECISION]

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
    def _sites(self) -> str:
        """Identifies the places that an ablation acts on: tracing may find others one day."""
        return digest(dict(self.model_profile.anatomy_record))

    # ---------------------------------------------------------------- what is measured

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

        Args:
            index: of the chunk.
            interventions: what is done to the model.
            dtype: precision to measure in: float32, or that of this measurement.

        Raises:
            MeasurementError: if a value is NaN, or infinite although the model is intact.
        """
        store = self._stores[dtype]
        self.scoring_plan.prepare(index)
        first = self._chunk_key(index, Intact())
        if store.read(first) is None:
            self._load()
        # The intact model first: its batches are those of every ablation of the chunk.
        (intact,) = store.obtain([first], lambda _: self._measure_intact(index, dtype))
        by_key = {
            self._chunk_key(index, intervention)["id"]: intervention
            for intervention in interventions
        }
        for intervention in interventions:  # before a chunk is locked: nobody waits holding a lock
            if store.read(self._chunk_key(index, intervention)) is None:
                self._means(intervention.needs_means)
        records = store.obtain(
            [self._chunk_key(index, intervention) for intervention in interventions],
            lambda key: self._measure_ablated(index, by_key[key["id"]], intact, dtype),
        )
        return [
            self._checked(record, intervention)
            for record, intervention in zip(records, interventions, strict=True)
        ]

    def stored(self, index: int, intervention: Intervention) -> ChunkNLL | None:
        """One chunk if it has been measured; nothing is measured or loaded."""
        record = self.store.read(self._chunk_key(index, intervention))
        return None if record is None else self._checked(record, intervention)

    def _chunk_key(self, index: int, intervention: Intervention) -> dict[str, Any]:
        found = intervention.key()
        key = found if found is None else {**found, "sites": self._sites}
        return {"chunk": index, "id": canonical_json(key)}

    def _checked(self, record: Mapping[str, Any], intervention: Intervention) -> ChunkNLL:
        nll = np.array(record["nll_nats"], dtype=np.float64)
        if np.isnan(nll).any() or (isinstance(intervention, Intact) and np.isinf(nll).any()):
            kinds = {Intact: "intact", Quantized: "quantised"}
            state = kinds.get(type(intervention), "ablated")
            raise MeasurementError(
                f"the {state} model's negative log-likelihood is not a finite number on "
                f"{int((~np.isfinite(nll)).sum())} of {len(nll)} text blocks: its weights or "
                "activations overflow or hold NaN"
            )
        return ChunkNLL(nll_nats=nll, tokens=np.array(record["tokens"], dtype=np.int64))

    @cached_property
    def _execution(self) -> "Execution":
        from robustness.measurement.execution import Execution

        return Execution(
            load=partial(self.checkpoint.load_model, device=self.device),
            scoring=self.checkpoint.scoring,
            anatomy=self.model_profile.anatomy,
            pad_id=self.scoring_plan.pad_id,
            device=self.device,
            threads=self.threads,
        )

    def _load(self) -> None:
        """Have model and text blocks at hand before a lock is taken or waited for.

        Of several processes one measures the first chunk, and the others load meanwhile.
        """
        self.scoring_plan.load()
        self._execution.load()

    # ---------------------------------------------------------------- forward passes

    def _measure_intact(self, index: int, dtype: Dtype) -> Record:
        chunk = self.scoring_plan.chunk(index)
        execution = self._execution
        nll, most_tokens = execution.run(chunk, [Intact()], execution.most_tokens, dtype)
        return self._record(chunk, nll[0], most_tokens)

    def _measure_ablated(
        self, index: int, intervention: Intervention, intact: Record, dtype: Dtype
    ) -> Record:
        """An ablation of a chunk, in the batches that the intact model ran in.

        Where memory does not allow these (any more, or in this process), both run in smaller ones,
        and what is kept is the stored intact value plus the difference of the two: differences are
        what verdicts are about, and they stay those of identical batches in every process.
        """
        chunk = self.scoring_plan.chunk(index)
        execution, stored = self._execution, intact.get("most_tokens")
        allowed = min(execution.most_tokens, stored or execution.most_tokens)
        means = self._means(intervention.needs_means)
        nll: Sequence[NDArray[np.float64]] = ()
        if allowed == stored:
            nll, allowed = execution.run(chunk, [intervention], allowed, dtype, means)
        if allowed != stored:
            both = [Intact(), intervention]
            (same, ablated), allowed = execution.run(chunk, both, allowed, dtype, means)
            nll = [np.array(intact["nll_nats"]) + (ablated - same)]
        return self._record(chunk, nll[0], allowed)

    def _record(self, chunk: "PlannedChunk", nll: NDArray[np.float64], most_tokens: int) -> Record:
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
            self.scoring_plan.prepare(index)
            self._means(each[0].needs_means)
        (record,) = self.store.obtain([key], lambda _: self._measure_layers(index, each))
        return [
            self._checked({"nll_nats": nll, "tokens": record["tokens"]}, intervention)
            for nll, intervention in zip(record["nll_nats"], each, strict=True)
        ]

    def _each_layer(self, ablation: Ablation) -> list[FixedAblation]:
        layers = range(self.model_profile.layers)
        return [FixedAblation(ablation=replace(ablation, layers=(layer,))) for layer in layers]

    def _measure_layers(self, index: int, each: Sequence[FixedAblation]) -> Record:
        """Each layer's run starts from what the intact model handed it, where that is possible."""
        chunk, execution = self.scoring_plan.chunk(index), self._execution
        means = self._means(each[0].needs_means)
        nll = execution.layer_by_layer(chunk, each, means)
        self.checkpoint.require_unchanged()
        return {"nll_nats": nll.tolist(), "tokens": chunk.tokens.tolist()}

    # ---------------------------------------------------------------- predictions

    def changed_predictions(self, index: int, intervention: Intervention) -> ChunkChanges:
        """At how many scored positions of one chunk an intervention changes what is predicted.

        Raises:
            MeasurementError: if a model predicts nothing, since its logits are not numbers.
        """
        key = {**self._chunk_key(index, intervention), "changed_predictions": 1}
        if self.store.read(key) is None:  # nobody waits holding a lock
            self.scoring_plan.prepare(index)
            self._means(intervention.needs_means)

        def measure(_: Mapping[str, Any]) -> Record:
            chunk = self.scoring_plan.chunk(index)
            means = self._means(intervention.needs_means)
            changed = self._execution.changed_predictions(chunk, intervention, means)
            self.checkpoint.require_unchanged()
            return {"changed": changed.tolist(), "tokens": chunk.tokens.tolist()}

        (record,) = self.store.obtain([key], measure)
        return ChunkChanges(
            changed=np.array(record["changed"], dtype=np.int64),
            tokens=np.array(record["tokens"], dtype=np.int64),
        )

    # ---------------------------------------------------------------- examples

    def examples(self, ablation: Ablation, *, number: int) -> "list[Example]":
        """What the intact and the ablated model say about pieces of the first text blocks.

        None where the model's way of scoring has no such examples.

        Args:
            ablation: what is switched off.
            number: how many.
        """
        from robustness.scoring.examples import SCORINGS

        if not number or self.checkpoint.scoring not in SCORINGS:
            return []
        intervention = FixedAblation(ablation=ablation)
        same = canonical_json({**intervention.key(), "sites": self._sites})
        key = {"examples": EXAMPLES, "number": number, "id": same}
        if self.store.read(key) is None:  # nobody waits holding a lock
            self._means(intervention.needs_means)
        blocks = self.order[: 4 * number].tolist()  # more, should one have nothing to show
        (record,) = self.store.obtain(
            [key], lambda _: self._measure_examples(intervention, blocks, number)
        )
        found: list[Example] = record["examples"]
        return found

    def _measure_examples(
        self, intervention: FixedAblation, blocks: Sequence[int], number: int
    ) -> Record:
        from robustness.scoring.examples import example

        means = self._means(intervention.needs_means)
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
        self.checkpoint.require_unchanged()
        return {"examples": examples}

    # ---------------------------------------------------------------- means

    def _means(self, ablation: Ablation | None) -> "Means | None":
        """The intact model's mean features where an ablation puts them, from the store if known."""
        return stored_means(
            self.store,
            ablation,
            identity={"blocks": MEAN_BLOCKS, "sites": self._sites},
            sums=self._feature_sums,
        )

    def _feature_sums(self, ablation: Ablation) -> "Mapping[int, Sum]":
        """Over all positions of text blocks that run one by one, so that there is no padding."""
        rows = self.scoring_plan.rows(self.order[:MEAN_BLOCKS].tolist())
        sums = self._execution.feature_sums(rows, ablation)
        self.checkpoint.require_unchanged()
        return sums
