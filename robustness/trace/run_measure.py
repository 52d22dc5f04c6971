"""The wanted checkpoints of a run, measured on the same text with the same dimensions off."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustness.errors import (
    CheckpointError,
    MeasurementError,
    PolicyError,
    UnsupportedArchitecture,
    UnsupportedSite,
)
from robustness.store.context import Context
from robustness.trace.emergence import Step
from robustness.trace.step_measure import measured
from robustness.vetting import Vetting

if TYPE_CHECKING:
    from robustness.corpus.corpus import Corpus
    from robustness.policy.policy import Policy
    from robustness.policy.settings import Settings

_OF_ONE_CHECKPOINT = (CheckpointError, MeasurementError, UnsupportedArchitecture, UnsupportedSite)
"""What is wrong with one of them alone: the others are measured all the same."""


@dataclass(frozen=True, kw_only=True)
class RunMeasurement:
    """How the checkpoints of a run are measured: all of them alike."""

    settings: "Settings"  # of the policy, the same for every checkpoint
    corpus: "Corpus"  # the text
    dims: tuple[int, ...]  # that are switched off
    never_drawn: tuple[int, ...]  # dimensions that are none of the random ones
    text_blocks: int | None  # of each checkpoint; ``None`` for the whole corpus
    confidence: float  # of each interval
    store_root: Path  # folder of the store

    @property
    def where(self) -> str:
        """Where and how dimensions are switched off, in words."""
        own = self.settings
        which = "all layers" if own.layers == "all" else f"layers {', '.join(map(str, own.layers))}"
        return f"site {own.site}, mode {own.mode}, {which}"

    def to_dict(self) -> dict[str, Any]:
        """How it is measured, in plain JSON types."""
        own = self.settings
        return {
            "dims": list(self.dims),
            "never_drawn": list(self.never_drawn),
            "site": own.site,
            "mode": own.mode,
            "layers": own.layers if own.layers == "all" else list(own.layers),
            "corpus": self.corpus.description,
            "text_blocks": self.text_blocks,
            "block_size": own.block_size,
            "seed": own.seed,
            "dtype": "float32",
            "device": own.device,
            "confidence_of_each": self.confidence,
        }

    def steps(
        self, steps: Sequence[Step], wanted: Sequence[int], progress: Callable[..., None]
    ) -> Iterator[Step]:
        """Return all steps, those at the wanted places measured.

        The progress is told the step's place, and then what
        :data:`robustness.trace.step_measure.Progress` is told.
        """
        text: str | None = None  # identifies the text blocks of the first that is measured
        for place, step in enumerate(steps):
            if place not in wanted:
                yield step
                continue
            try:
                vetting = self._vetting(step)
                fingerprint = vetting.measurement.scoring_plan.text_blocks_sha256
                if text not in (None, fingerprint):
                    raise CheckpointError(
                        f"the tokenizer of {step.scan.label} cuts the text otherwise than those "
                        "before it, so its numbers cannot stand beside theirs"
                    )
                text = fingerprint
                on_text = measured(
                    vetting,
                    self.dims,
                    never_drawn=self.never_drawn,
                    text_blocks=self.text_blocks,
                    alpha=1 - self.confidence,
                    progress=partial(progress, place),
                )
                yield replace(step, measured=on_text)
            except _OF_ONE_CHECKPOINT as error:
                yield replace(step, unmeasurable=str(error))

    def _vetting(self, step: Step) -> Vetting:
        from robustness.checkpoint.resolving import resolve

        checkpoint = resolve(
            step.reference, cache=self.store_root, options=self.settings.read_options
        )
        self.settings.scoring_options.require_suits(checkpoint.scoring, label=step.scan.label)
        return Vetting(
            checkpoint=checkpoint,
            settings=self.settings,
            context=Context(root=self.store_root),
            corpus=self.corpus,
        )


def common_settings(policy: "Policy", steps: Sequence[Step]) -> "Settings":
    """Return the settings that all checkpoints of a run are measured with.

    Which rule a policy ablates by is of no matter here: the dimensions are given. The one that
    reads weights alone is taken.

    Raises:
        PolicyError: the policy has others for some of them.
    """
    settings = [policy.settings(step.reference, step.scan.label) for step in steps]
    if any(other != settings[0] for other in settings):
        raise PolicyError(
            f"{policy.source}: the checkpoints of a run are measured alike, and it has settings "
            "of their own for some of them: remove these, or name the others alone"
        )
    common = settings[0].model_copy(update={"rule": "busters"})
    return common.where_possible(("residual",) if steps[0].scan.kind == "reader" else ("output",))
