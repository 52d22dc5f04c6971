"""Vetting: one checkpoint, one corpus, one policy. The object that users hold."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cached_property
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, SupportsIndex

from robustness.ablation.ablation import Ablation
from robustness.checks.against_baseline import AgainstBaseline
from robustness.checks.claims import AblatedModel, IntactModel, RandomlyAblatedModel
from robustness.checks.layer_sweep import LayerSweep
from robustness.checks.quantized_model import QuantizedModel
from robustness.checks.tasks.task import Task
from robustness.corpus.corpus import Corpus, load_corpus
from robustness.errors import BaselineError, PolicyError, RuleError
from robustness.measurement.measure import Measurement
from robustness.outliers.activation_source import ActivationSource
from robustness.outliers.model_profile import ModelProfile, profile_model
from robustness.outliers.outlier_dimensions import OutlierDimensions
from robustness.outliers.rules import RULES
from robustness.policy.policy import Settings
from robustness.reference.baseline import CheckpointBaseline
from robustness.run.planned_task import PlannedTask, plan_task
from robustness.runtime.devices import chosen_dtype
from robustness.scoring.quantity import Quantity, quantity
from robustness.scoring.replaced import chosen_generator
from robustness.statistics.decisions import NOTHING_EXCLUDED
from robustness.statistics.pace import Pace

if TYPE_CHECKING:
    from robustness.checkpoint.checkpoint import Checkpoint
    from robustness.runtime.threads import Threads
    from robustness.scoring.examples import Example

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
        model_profile: what is known of it already; found when needed otherwise.
        corpus: the text, if it has been read already.
        generator: the settings' generator, if it is resolved already.
        threads: a share of the processor's cores; ``None`` leaves the library's choice.
        newer_than: seconds since the epoch; what the store has from before is not used.
        progress: called with one line after every chunk.
        baseline: the profile that it is compared with.
        task: the downstream task, if it is known already.
    """

    def __init__(
        self,
        *,
        checkpoint: "Checkpoint",
        settings: Settings,
        store_root: Path,
        confidence: float = 0.99,
        model_profile: ModelProfile | None = None,
        corpus: Corpus | None = None,
        generator: "Checkpoint | None" = None,
        threads: "Threads | None" = None,
        newer_than: float | None = None,
        progress: Progress | None = None,
        baseline: CheckpointBaseline | None = None,
        task: PlannedTask | None = None,
    ) -> None:
        self.checkpoint = checkpoint
        self.settings = settings
        self.confidence = confidence
        self._store_root = store_root
        self._threads = threads
        self._newer_than = newer_than
        self._progress = progress
        self._baseline = baseline
        self._pace = Pace()
        self._planned_task = task
        if model_profile is not None:
            self.__dict__["model_profile"] = model_profile
        if corpus is not None:
            self.__dict__["corpus"] = corpus
        if generator is not None:
            self.__dict__["generator"] = generator

    @cached_property
    def model_profile(self) -> ModelProfile:
        """Anatomy and outlier dimensions, from the weights alone where the rules allow it."""
        return self._profiled(self.settings, values=True)

    def _profiled(self, settings: Settings, *, values: bool = False) -> ModelProfile:
        source = ActivationSource(
            checkpoint=self.checkpoint,
            corpus=lambda: self.corpus,
            text_blocks=settings.rules.text_blocks,
            block_size=settings.block_size,
            bos=settings.bos,
            seed=settings.seed,
            device=settings.device,
            threads=self._threads,
            progress=self._progress or (lambda _: None),
        )
        return profile_model(
            self.checkpoint,
            settings.rules,
            settings.rule_names,
            stack=settings.stack,
            source=source,
            store_root=self._store_root,
            newer_than=self._newer_than,
            values=values,
        )

    @cached_property
    def corpus(self) -> Corpus:
        """The text."""
        return load_corpus(self.settings.corpus, layout=self.settings.layout)

    @property
    def quantity(self) -> Quantity:
        """What is measured: perplexity, or a discriminator's loss."""
        return quantity(self.checkpoint.scoring)

    @cached_property
    def generator(self) -> "Checkpoint | None":
        """The masked language model that replaces a discriminator's tokens, if one is named.

        Raises:
            PolicyError: if it is no masked language model, or has another vocabulary.
        """
        return chosen_generator(
            self.settings.generator, self.checkpoint, store_root=self._store_root
        )

    @cached_property
    def measurement(self) -> Measurement:
        """Measured numbers, per chunk of text blocks."""
        return Measurement(
            checkpoint=self.checkpoint,
            corpus=self.corpus,
            model_profile=self.model_profile,
            block_size=self.settings.block_size,
            seed=self.settings.seed,
            device=self.settings.device,
            dtype=chosen_dtype(self.settings.dtype, self.settings.device),
            threads=self._threads,
            newer_than=self._newer_than,
            store_root=self._store_root,
            options=self.settings.scoring_options,
            generator=self.generator,
        )

    def outliers(self, rule: str | None = None) -> OutlierDimensions:
        """The outlier dimensions by a rule (default: the policy's first), with its settings there.

        Raises:
            RuleError: if there is no such rule, or it cannot say anything about this model.
            UnsupportedSite: if it needs another kind of output site.
        """
        if rule is None:
            return OutlierDimensions(self.model_profile.detection)
        if rule not in RULES:
            raise RuleError(f"unknown rule {rule!r}; known: {', '.join(RULES)}")
        if rule in self.settings.rule_names:
            place = self.settings.rule_names.index(rule)
            return OutlierDimensions(self.model_profile.detections[place])
        settings = self.settings.model_copy(update={"rule": rule})
        return OutlierDimensions(self._profiled(settings).detection)

    def require_site(self) -> None:
        """Find out before anything is measured that the policy's site or layers do not exist.

        Raises:
            UnsupportedSite: the model has no such site, or no such layer.
        """
        self.ablation((0,), site=None, mode=None, layers=None)

    def ablate(
        self,
        dims: SupportsIndex | Iterable[int],
        *,
        site: str | None = None,
        mode: str | None = None,
        layers: Iterable[int] | None = None,
        embeddings: bool = False,
    ) -> AblatedModel:
        """The model without these dimensions, to be asked for verdicts.

        Args:
            dims: indices in the hidden vector.
            site: where they are switched off: ``output``, ``residual``, ``attention-norm`` or
                ``embedding-norm``; by default the policy's.
            mode: ``zero``: the feature becomes 0 everywhere; ``mean``: it becomes the intact
                model's mean; by default the policy's.
            layers: in which layers (0-based); by default the policy's.
            embeddings: at the site ``residual``, also in what enters the first layer.

        Raises:
            UnsupportedSite: if the model has no such site, mode or layer.
            ValueError: if a dimension is out of range, or an index given twice.
        """
        ablation = self.ablation(
            tuple(dims) if isinstance(dims, Iterable) else (index(dims),),
            site=site,
            mode=mode,
            layers=layers,
            embeddings=embeddings,
        )
        if max(ablation.dims) >= self.model_profile.hidden_size:
            raise ValueError(
                f"dimension {max(ablation.dims)} is out of range: the hidden size is "
                f"{self.model_profile.hidden_size}"
            )
        return AblatedModel(self, ablation)

    def layer_profile(
        self, dims: Iterable[int], *, site: str | None = None, mode: str | None = None
    ) -> LayerSweep:
        """The model without these dimensions in one layer at a time, to be asked for verdicts.

        Args:
            dims: indices in the hidden vector.
            site: as in :meth:`ablate`; one that the layers have.
            mode: likewise.
        """
        layers = range(self.model_profile.layers)
        ablation = self.ablation(tuple(dims), site=site, mode=mode, layers=layers)
        return LayerSweep(self, replace(ablation, layers=None))

    def ablate_random(
        self,
        size: int,
        *,
        site: str | None = None,
        mode: str | None = None,
        layers: Iterable[int] | None = None,
    ) -> RandomlyAblatedModel:
        """The model without ``size`` random non-outlier dimensions, drawn anew all the time.

        Args:
            size: how many.
            site: as in :meth:`ablate`.
            mode: likewise.
            layers: likewise.
        """
        like = self.ablation((0,), site=site, mode=mode, layers=layers)
        return RandomlyAblatedModel(self, size, like)

    def quantized(self) -> QuantizedModel:
        """The model with 8-bit weights and activations, to be asked whether that is harmless.

        Simulated at the dense layers within its layers: symmetric absmax int8, one scale for each
        weight and for each text block's activations; the head stays in float.
        """
        return QuantizedModel(self, self.model_profile.detection.dims)

    def ablation(
        self,
        dims: tuple[int, ...],
        *,
        site: str | None = None,
        mode: str | None = None,
        layers: Iterable[int] | None = None,
        embeddings: bool = False,
    ) -> Ablation:
        """An ablation that this model knows, the policy's where nothing else is said."""
        usual = self.settings.ablation(dims)
        chosen = usual.site if site is None else site
        if layers is None and chosen != "embedding-norm":
            layers = usual.layers
        ablation = Ablation(
            dims=dims,
            site=chosen,
            mode=usual.mode if mode is None else mode,
            layers=None if layers is None else tuple(layers),
            embeddings=embeddings,
        )
        self.model_profile.require(ablation)
        return ablation

    def examples(
        self,
        dims: Iterable[int] | None = None,
        *,
        number: int | None = None,
        site: str | None = None,
        mode: str | None = None,
    ) -> "list[Example]":
        """What the model says about pieces of the corpus, intact and without these dimensions.

        Plain JSON types, see `examples.Example`; measured once and then kept.
        There are none without dimensions, and for models that are scored as encoder-decoders or
        discriminators.

        Args:
            dims: indices in the hidden vector; by default the outlier dimensions.
            number: how many pieces, each of another text block; by default the policy's.
            site: as in :meth:`ablate`.
            mode: likewise.
        """
        chosen = tuple(self.outliers().dims if dims is None else dims)
        wanted = self.settings.examples if number is None else number
        if not chosen or wanted < 1:
            return []
        ablation = self.ablate(chosen, site=site, mode=mode).ablation
        return self.measurement.examples(ablation, number=wanted)

    def intact(self) -> IntactModel:
        """The model as it is."""
        return IntactModel(self)

    @property
    def baseline(self) -> AgainstBaseline:
        """The checkpoint beside its baseline.

        Raises:
            BaselineError: if the run has none.
        """
        if self._baseline is None:
            raise BaselineError(
                f"{self.checkpoint.label} has no baseline: run with --robustness-baseline=FILE"
            )
        return AgainstBaseline(self, self._baseline)

    @cached_property
    def task(self) -> Task:
        """The checkpoint on its downstream task.

        Raises:
            TaskError: if the policy names none, or it does not suit the checkpoint.
        """
        if self._planned_task is None:
            self._planned_task = plan_task(
                self.checkpoint,
                self.settings,
                self.model_profile,
                store_root=self._store_root,
                newer_than=self._newer_than,
            )
        measurement = self._planned_task.measurement(
            self.settings,
            threads=self._threads,
            store_root=self._store_root,
            newer_than=self._newer_than,
        )
        return Task(self, self._planned_task, measurement)

    def non_finite_tensors(self) -> tuple[str, ...]:
        """Names of the checkpoint's tensors that hold NaN or infinity."""
        return self.checkpoint.non_finite_tensors(
            store_root=self._store_root, newer_than=self._newer_than
        )

    def report_progress(
        self,
        statement: str,
        seen: int,
        found: str,
        *,
        interval: tuple[float, float] | None = None,
        most: int | None = None,
        examples: int | None = None,
    ) -> None:
        """Tell whoever waits how far a decision has come: numbers first, a line may be cut.

        Args:
            statement: what is decided.
            seen: text blocks measured, or examples of a task, over all passes.
            found: the figure so far.
            interval: of that figure, if there is one.
            most: after how many it ends whatever was found; by default the corpus' or the task's.
            examples: of the task; ``None`` where text blocks of the corpus are meant.
        """
        if self._progress is None:
            return
        narrowed = interval is not None and interval != NOTHING_EXCLUDED
        line = self._pace.line(
            statement,
            seen,
            found,
            interval=interval if narrowed else None,
            total=self.measurement.layout.n_blocks if examples is None else examples,
            most=most,
            unit="text blocks" if examples is None else "examples",
        )
        self._progress(line)

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
