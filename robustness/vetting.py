"""Vetting: one checkpoint, one corpus, one policy. The object that users hold."""

from collections.abc import Callable, Iterable
from functools import cached_property
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, SupportsIndex

from robustness.ablation import Ablation
from robustness.claims import AblatedModel, IntactModel, OutlierDimensions, RandomlyAblatedModel
from robustness.corpus import Corpus, load_corpus
from robustness.detection import Examination, examine
from robustness.dtypes import chosen_dtype
from robustness.errors import PolicyError, RuleError
from robustness.measure import Measurement, library_versions
from robustness.outliers import RULES
from robustness.policy import Settings
from robustness.store import Record, Store

if TYPE_CHECKING:
    from robustness.checkpoint import Checkpoint

Progress = Callable[[str], None]


class Vetting:
    """One checkpoint on one corpus under one policy.

    Nothing is loaded or measured before it is asked for, and nothing is measured twice: numbers
    come from the store where any process has measured them before.

    Args:
        checkpoint: resolved.
        settings: the policy's settings for it.
        store_root: folder of the store.
        confidence: of a verdict that does not name its own.
        examination: what is known of it already; found when needed otherwise.
        threads: processor threads for the model; ``None`` leaves the library's choice.
        newer_than: seconds since the epoch; what the store has from before is not used.
        progress: called with one line after every chunk.
    """

    def __init__(
        self,
        *,
        checkpoint: "Checkpoint",
        settings: Settings,
        store_root: Path,
        confidence: float = 0.99,
        examination: Examination | None = None,
        threads: int | None = None,
        newer_than: float | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.checkpoint = checkpoint
        self.settings = settings
        self.confidence = confidence
        self._store_root = store_root
        self._threads = threads
        self._newer_than = newer_than
        self._progress = progress
        if examination is not None:
            self.__dict__["examination"] = examination

    @cached_property
    def examination(self) -> Examination:
        """Anatomy and outlier dimensions, from the weights alone."""
        return examine(
            self.checkpoint,
            self.settings,
            store_root=self._store_root,
            newer_than=self._newer_than,
        )

    @cached_property
    def corpus(self) -> Corpus:
        """The text."""
        return load_corpus(self.settings.corpus, layout=self.settings.layout)

    @cached_property
    def measurement(self) -> Measurement:
        """Measured numbers, per chunk of text blocks."""
        return Measurement(
            checkpoint=self.checkpoint,
            corpus=self.corpus,
            examination=self.examination,
            block_size=self.settings.block_size,
            seed=self.settings.seed,
            device=self.settings.device,
            dtype=chosen_dtype(self.settings.dtype, self.settings.device),
            threads=self._threads,
            newer_than=self._newer_than,
            store_root=self._store_root,
        )

    def outliers(self, rule: str | None = None) -> OutlierDimensions:
        """The outlier dimensions by a rule (default: the policy's).

        Raises:
            RuleError: if there is no such rule.
        """
        if rule is None or rule == self.settings.rule:
            return OutlierDimensions(self.examination.detection)
        if rule not in RULES:
            raise RuleError(f"unknown rule {rule!r}; known: {', '.join(RULES)}")
        settings = self.settings.model_copy(update={"rule": rule})
        found = examine(self.checkpoint, settings, store_root=self._store_root)
        return OutlierDimensions(found.detection)

    def ablate(
        self,
        dims: SupportsIndex | Iterable[int],
        *,
        site: str = "output",
        mode: str = "zero",
        layers: Iterable[int] | None = None,
    ) -> AblatedModel:
        """The model without these dimensions, to be asked for verdicts.

        Args:
            dims: indices in the hidden vector.
            site: where they are switched off.
            mode: ``zero``: the feature becomes 0 everywhere.
            layers: in which layers (0-based); all by default.

        Raises:
            UnsupportedSite: if the model has no such site, mode or (when measured) layer.
            ValueError: if a dimension is out of range, or an index given twice.
        """
        ablation = Ablation(
            dims=tuple(dims) if isinstance(dims, Iterable) else (index(dims),),
            site=site,
            mode=mode,
            layers=None if layers is None else tuple(layers),
        )
        if max(ablation.dims) >= self.examination.hidden_size:
            raise ValueError(
                f"dimension {max(ablation.dims)} is out of range: the hidden size is "
                f"{self.examination.hidden_size}"
            )
        return AblatedModel(self, ablation)

    def ablate_random(self, size: int) -> RandomlyAblatedModel:
        """The model without ``size`` random non-outlier dimensions, drawn anew all the time."""
        return RandomlyAblatedModel(self, size)

    def intact(self) -> IntactModel:
        """The model as it is."""
        return IntactModel(self)

    def non_finite_tensors(self) -> tuple[str, ...]:
        """Names of the checkpoint's tensors that hold NaN or infinity."""
        context = {"weights": self.checkpoint.weights_hash}
        store = Store(self._store_root, context, newer_than=self._newer_than)
        (record,) = store.obtain(
            [{"non_finite_tensors": 1, "versions": library_versions()}],
            lambda _: self._look_for_non_finite_tensors(),
        )
        return tuple(record["names"])

    def _look_for_non_finite_tensors(self) -> Record:
        from robustness.finite import non_finite_tensors

        names = non_finite_tensors(self.checkpoint.folder)
        self.checkpoint.require_unchanged()
        return {"names": names}

    def report_progress(self, claim: str, text_blocks: int, found: str) -> None:
        """Tell whoever waits how far a decision has come: numbers first, a line may be cut."""
        if self._progress is not None:
            n_blocks = self.measurement.layout.n_blocks
            passes, place = divmod(text_blocks - 1, n_blocks)
            again = f", pass {passes + 1}" if passes else ""
            self._progress(f"{found} after {place + 1}/{n_blocks} text blocks{again}: {claim}")

    def alpha(self, confidence: float | None, alpha: float | None) -> float:
        """Error probability of one verdict.

        Raises:
            PolicyError: if the confidence is not a probability.
        """
        if alpha is not None:
            return alpha
        chosen = self.confidence if confidence is None else confidence
        if not 0.5 <= chosen < 1:
            raise PolicyError(f"confidence must be at least 0.5 and below 1, not {chosen!r}")
        return 1 - chosen
