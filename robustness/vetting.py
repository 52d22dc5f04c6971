"""Vetting: one checkpoint, one corpus, one policy. The object that users hold."""

from collections.abc import Iterable
from functools import cached_property
from operator import index
from typing import Any, SupportsIndex, Unpack

from robustness.ablation.ablation import Ablation, Place
from robustness.checkpoint.checkpoint import Checkpoint
from robustness.checks.ablation import AblatedModel
from robustness.checks.against_reference import AgainstReference
from robustness.checks.check import PlanContext
from robustness.checks.control import RandomlyAblatedModel
from robustness.checks.layer_sweep import LayerSweep, layer_sweep
from robustness.checks.limits import Terms
from robustness.checks.planned import PlannedCheck
from robustness.checks.quantization import QuantizedModel
from robustness.checks.registry import CHECKS
from robustness.checks.sanity import IntactModel
from robustness.checks.tasks.models import TaskModels
from robustness.corpus.corpus import Corpus, load_corpus
from robustness.errors import BaselineError, PolicyError, RuleError
from robustness.measurement.compared import ComparedMeasurement, ReferenceMeasurement
from robustness.measurement.measure import Measurement
from robustness.measurement.planned_task import PlannedTask, plan_task
from robustness.measurement.predictions import TaskMeasurement
from robustness.outliers.activation_source import ActivationSource
from robustness.outliers.model_profile import ModelProfile, profile_model
from robustness.outliers.outlier_dimensions import OutlierDimensions
from robustness.outliers.rules import RULES
from robustness.policy.settings import Settings
from robustness.reference.baseline import CheckpointBaseline
from robustness.reference.reference import MeasuredReference, Reference, SavedReference
from robustness.runtime.devices import chosen_dtype
from robustness.scoring.examples import Example
from robustness.scoring.quantity import Quantity, quantity
from robustness.scoring.replaced import chosen_generator
from robustness.statistics.figures import Interval
from robustness.statistics.loop import Watch
from robustness.statistics.pace import Pace
from robustness.statistics.verdict import Unit, Verdict
from robustness.store.context import Context


class Vetting:
    """One checkpoint on one corpus under one policy.

    Nothing is loaded or measured before it is asked for, and nothing is measured twice: numbers
    come from the store where any process has measured them before. What is known of the checkpoint
    already can be given; ``confidence`` is that of a verdict that does not name its own.
    """

    def __init__(
        self,
        *,
        checkpoint: Checkpoint,
        settings: Settings,
        context: Context,
        confidence: float = 0.99,
        model_profile: ModelProfile | None = None,
        corpus: Corpus | None = None,
        generator: Checkpoint | None = None,
        compared_with: "Vetting | CheckpointBaseline | None" = None,
        is_reference: bool = False,
        task: PlannedTask | None = None,
    ) -> None:
        self.checkpoint = checkpoint
        self.settings = settings
        self.context = context
        self.confidence = confidence
        self.compared_with = compared_with
        self._is_reference = is_reference
        self._pace = Pace()
        given = {
            "model_profile": model_profile,
            "corpus": corpus,
            "generator": generator,
            "planned_task": task,
        }
        self.__dict__.update({name: value for name, value in given.items() if value is not None})

    @cached_property
    def terms(self) -> Terms:
        """What the policy says of how checks are decided."""
        return self.settings.terms

    @cached_property
    def model_profile(self) -> ModelProfile:
        """Anatomy and outlier dimensions, from the weights alone where the rules allow it."""
        return self._profiled(self.settings, values=True)

    def _profiled(self, settings: Settings, *, values: bool = False) -> ModelProfile:
        source = ActivationSource(
            checkpoint=self.checkpoint,
            load_corpus=lambda: self.corpus,
            n_blocks=settings.rules.text_blocks,
            block_size=settings.block_size,
            bos=settings.bos,
            seed=settings.seed,
            device=settings.device,
            context=self.context,
        )
        return profile_model(
            self.checkpoint,
            settings.rules,
            settings.rule_names,
            stack=settings.stack,
            source=source,
            context=self.context,
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
    def generator(self) -> Checkpoint | None:
        """The masked language model that replaces a discriminator's tokens, if one is named."""
        return chosen_generator(
            self.settings.generator,
            self.checkpoint,
            store_root=self.context.root,
            options=self.settings.read_options,
        )

    @cached_property
    def measurement(self) -> Measurement:
        """Measured numbers, per chunk of text blocks."""
        told: dict[str, Any] = {
            "checkpoint": self.checkpoint,
            "corpus": self.corpus,
            "model_profile": self.model_profile,
            "block_size": self.settings.block_size,
            "seed": self.settings.seed,
            "device": self.settings.device,
            "dtype": chosen_dtype(self.settings.dtype, self.settings.device),
            "context": self.context,
            "options": self.settings.scoring_options,
            "generator": self.generator,
        }
        if self._is_reference:
            return ReferenceMeasurement(**told)
        other, measured = self.compared_with, None
        if isinstance(other, Vetting):
            other.corpus = self.corpus  # both are asked about the same text, which is read once
            measured = other.measurement
        if isinstance(measured, ReferenceMeasurement) and not self.reference_numbers.is_candidate:
            return ComparedMeasurement(**told, reference=measured)
        return Measurement(**told)

    @cached_property
    def planned_task(self) -> PlannedTask:
        """The downstream task; a TaskError if there is none, or it does not suit the checkpoint."""
        return plan_task(
            self.checkpoint,
            self.settings.task,
            self.model_profile,
            self.context,
            stack=self.settings.stack,
            options=self.settings.read_options,
        )

    @cached_property
    def task_measurement(self) -> TaskMeasurement:
        """Predictions, per chunk of examples."""
        return self.planned_task.measurement(
            self.context,
            max_length=self.settings.task.max_length,
            seed=self.settings.seed,
            device=self.settings.device,
        )

    @property
    def reference_numbers(self) -> Reference:
        """What the checkpoint is compared with; a BaselineError if the run has nothing."""
        reference = self.compared_with
        if reference is None:
            raise BaselineError(
                f"{self.checkpoint.label} has no reference: run with --robustness-reference=X"
            )
        if isinstance(reference, CheckpointBaseline):
            return SavedReference(label=reference.label, entry=reference)
        has_task = reference.settings.task.data is not None
        return MeasuredReference(
            label=reference.checkpoint.label,
            is_candidate=reference.checkpoint.identity == self.checkpoint.identity,
            task=reference.task_measurement if has_task else None,
            measurement=reference.measurement if reference.has_perplexity else None,
            profile=reference.model_profile,
            checkpoint=reference.checkpoint,
        )

    @property
    def has_perplexity(self) -> bool:
        """Whether it is a language model."""
        return self.checkpoint.scoring != "task"

    def plan_context(self) -> PlanContext:
        """What decides which checks it gets."""
        return PlanContext(
            terms=self.terms,
            model_profile=self.model_profile,
            language_model=self.has_perplexity,
            task=self.settings.task.data is not None,
            reference=None if self.compared_with is None else self.reference_numbers,
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

    def non_finite_tensors(self) -> tuple[str, ...]:
        """Names of the checkpoint's tensors that hold NaN or infinity."""
        return self.checkpoint.non_finite_tensors(self.context)

    def require_site(self) -> None:
        """Find out before anything is measured that the policy's site or layers do not exist."""
        self.ablation((0,))

    def ablation(self, dims: tuple[int, ...], **place: Unpack[Place]) -> Ablation:
        """An ablation that this model knows, the policy's where nothing else is said.

        Raises:
            UnsupportedSite: if the model has no such site, mode or layer.
            ValueError: if a dimension is out of range, or an index given twice.
        """
        said = {name: value for name, value in place.items() if value is not None}
        settings = self.settings.where_possible(self.model_profile.sites)
        usual = settings.ablation(dims).to_dict()
        if said.get("site", usual["site"]) == "embedding-norm":
            usual["layers"] = None
        ablation = Ablation(**{**usual, **said, "dims": dims})
        self.model_profile.require(ablation)
        if max(ablation.dims) >= self.model_profile.hidden_size:
            raise ValueError(
                f"dimension {max(ablation.dims)} is out of range: the hidden size is "
                f"{self.model_profile.hidden_size}"
            )
        return ablation

    def decide(self, planned: PlannedCheck, *, alpha: float) -> Verdict:
        """The verdict on a check that a run has planned for it."""
        return CHECKS[planned.check].decide(planned, self, alpha=alpha)

    def intact(self) -> IntactModel:
        """The model as it is."""
        return IntactModel(self)

    def ablate(self, dims: SupportsIndex | Iterable[int], **place: Unpack[Place]) -> AblatedModel:
        """The model without these dimensions, to be asked for verdicts.

        Args:
            dims: indices in the hidden vector.
            **place: by default the policy's: the ``site`` where they are switched off (``output``,
                ``residual``, ``attention-norm`` or ``embedding-norm``), the ``mode`` (``zero``:
                the feature becomes 0 everywhere; ``mean``: the intact model's mean), in which
                ``layers`` (0-based); and whether ``embeddings``, at the site ``residual``, are
                switched off in what enters the first layer, too.

        Raises:
            UnsupportedSite: if the model has no such site, mode or layer.
            ValueError: if a dimension is out of range, or an index given twice.
        """
        chosen = tuple(dims) if isinstance(dims, Iterable) else (index(dims),)
        return AblatedModel(self, self.ablation(chosen, **place))

    def ablate_random(self, size: int, **place: Unpack[Place]) -> RandomlyAblatedModel:
        """The model without ``size`` random non-outlier dimensions, drawn anew all the time.

        Where and how is as in :meth:`ablate`.
        """
        return RandomlyAblatedModel(self, size, self.ablation((0,), **place))

    def layer_sweep(
        self, dims: Iterable[int], *, site: str | None = None, mode: str | None = None
    ) -> LayerSweep:
        """The model without these dimensions in one layer at a time, to be asked for verdicts.

        Where and how is as in :meth:`ablate`, at a site that the layers have.
        """
        return layer_sweep(self, tuple(dims), site=site, mode=mode)

    def quantized(self) -> QuantizedModel:
        """The model with 8-bit weights and activations, to be asked whether that is harmless.

        Simulated at the dense layers within its layers: symmetric absmax int8, one scale for each
        weight and for each text block's activations; the head stays in float.
        """
        return QuantizedModel(self)

    @property
    def reference(self) -> AgainstReference:
        """The checkpoint beside its reference; a ``BaselineError`` if the run has none."""
        return AgainstReference(self)

    @cached_property
    def task(self) -> TaskModels:
        """The checkpoint on its downstream task, to be asked for verdicts."""
        return TaskModels(self)

    def examples(
        self,
        dims: Iterable[int] | None = None,
        *,
        number: int | None = None,
        **place: Unpack[Place],
    ) -> list[Example]:
        """What the model says about pieces of the corpus, intact and without these dimensions.

        Plain JSON types, see :data:`robustness.scoring.examples.Example`; by default without the
        outlier dimensions, and as many pieces as the policy says. There are none without dimensions
        and for models that are scored as encoder-decoders or discriminators.
        """
        chosen = tuple(self.outliers().dims if dims is None else dims)
        wanted = self.settings.examples if number is None else number
        if not chosen or wanted < 1:
            return []
        return self.measurement.examples(self.ablation(chosen, **place), number=wanted)

    def alpha(self, confidence: float | None = None, alpha: float | None = None) -> float:
        """Error probability of one verdict; a PolicyError if the confidence is no probability."""
        if alpha is not None:
            return alpha
        chosen = self.confidence if confidence is None else confidence
        if not 0.5 <= chosen < 1:
            raise PolicyError(f"confidence must be at least 0.5 and below 1, not {chosen!r}")
        return 1 - chosen

    def watch(self, statement: str, unit: Unit = "text blocks") -> Watch:
        """Tells whoever waits how far a decision has come."""

        def tell(seen: int, number: str, interval: Interval | None, most: int | None) -> None:
            of_text = unit == "text blocks"
            total = (
                self.measurement.layout.n_blocks if of_text else self.task_measurement.n_examples
            )
            line = self._pace.line(
                statement, seen, number, interval=interval, total=total, most=most, unit=unit
            )
            self.context.progress(line)

        return tell
