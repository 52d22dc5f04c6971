"""What each layer's own part in an ablation is: the same dimensions, in one layer at a time."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from robustness.ablation.ablation import Ablation
from robustness.ablation.interventions import Intact
from robustness.outliers.outlier_dimensions import named
from robustness.statistics.history import Step, course, step
from robustness.statistics.verdict import Decision, Verdict, decide_ratio

if TYPE_CHECKING:
    from robustness.vetting import Vetting

RECORDED_BLOCKS = 64
"""Text blocks of a profile that is compared with nothing, unless the whole corpus is measured."""


class LayerSweep:
    """A model without some dimensions in one layer at a time; see :meth:`Vetting.layer_profile`."""

    def __init__(self, vetting: "Vetting", ablation: Ablation) -> None:
        self._vetting = vetting
        self.ablation = ablation

    def recorded(self, *, confidence: float | None = None, alpha: float | None = None) -> Verdict:
        """Every layer's own degradation, compared with nothing: it passes in any case."""
        level = self._vetting.alpha(confidence, alpha)
        statement = f"ablating {self._named} in one layer at a time is recorded"
        steps = []
        for looks, intact in self._looks(1.0, level):
            steps.append(_step(looks))
            seen = intact["intact_text_blocks"]
            n_blocks = self._vetting.measurement.layout.n_blocks
            whole = self._vetting.settings.exhaustive
            most = n_blocks if whole else min(n_blocks, RECORDED_BLOCKS)
            self._report(statement, looks, seen, most)
            if seen >= RECORDED_BLOCKS and not self._vetting.settings.exhaustive:
                break
        return self._verdict("pass", statement, looks, intact, steps)

    def stays_below(
        self, within: float, *, confidence: float | None = None, alpha: float | None = None
    ) -> Verdict:
        """Whether every layer's own degradation is less than ``within``, all together."""
        level = self._vetting.alpha(confidence, alpha)
        statement = (
            f"ablating {self._named} in one layer at a time multiplies perplexity by less than "
            f"{within:g}, in every layer"
        )
        steps = []
        for looks, intact in self._looks(within, level):
            steps.append(_step(looks))
            sides = {look.side for look in looks}
            self._report(statement, looks, intact["intact_text_blocks"], None)
            if (sides == {"below"} or "above" in sides) and not self._vetting.settings.exhaustive:
                break
        outcome = "pass" if sides == {"below"} else "fail"
        return self._verdict(outcome, statement, looks, intact, steps, threshold=within)

    def _report(
        self, statement: str, looks: Sequence[Decision], seen: int, most: int | None
    ) -> None:
        largest = _largest(looks)
        found = f"x{largest.ratio:.4g}"
        self._vetting.report_progress(statement, seen, found, interval=largest.interval, most=most)

    def _looks(
        self, threshold: float, alpha: float
    ) -> Iterator[tuple[list[Decision], Mapping[str, Any]]]:
        """Every layer compared with a threshold, after each chunk; the layers share alpha."""
        measurement = self._vetting.measurement
        n_layers = self._vetting.model_profile.layers
        nll: list[Any] = []
        tokens: list[Any] = []
        deltas: list[list[Any]] = [[] for _ in range(n_layers)]
        for index in range(measurement.n_chunks):
            (intact,) = measurement.chunk(index, Intact())
            nll.append(intact.nll_nats)
            tokens.append(intact.tokens)
            for delta, ablated in zip(
                deltas, measurement.layer_chunk(index, self.ablation), strict=True
            ):
                delta.append(ablated.nll_nats - intact.nll_nats)
            counts = np.concatenate(tokens)
            looks = [
                decide_ratio(
                    np.concatenate(delta),
                    counts,
                    threshold=threshold,
                    alpha=alpha / n_layers,
                    exhausted=index == measurement.n_chunks - 1,
                )
                for delta in deltas
            ]
            yield (
                looks,
                {
                    "intact_perplexity": float(np.exp(np.concatenate(nll).sum() / counts.sum())),
                    "intact_text_blocks": len(counts),
                    "intact_tokens": int(counts.sum()),
                },
            )

    def _verdict(
        self,
        outcome: Any,
        statement: str,
        looks: Sequence[Decision],
        intact: Mapping[str, Any],
        steps: Sequence[Step],
        *,
        threshold: float | None = None,
    ) -> Verdict:
        largest = _largest(looks)
        profile = [
            {
                "layer": layer,
                "ratio": look.ratio,
                "interval": None if look.interval is None else list(look.interval),
            }
            for layer, look in enumerate(looks)
        ]
        return Verdict(
            outcome=outcome,
            statement=statement,
            ratio=largest.ratio,
            interval=largest.interval,
            threshold=threshold,
            passes=None if threshold is None else "below",
            text_blocks=largest.text_blocks,
            tokens=largest.tokens,
            exact=largest.exact,
            details={**intact, "layer_profile": profile},
            reason=described([look.ratio for look in looks]),
            course=course(steps),
        )

    @property
    def _named(self) -> str:
        return f"{named(self.ablation.dims)}{self.ablation.where}"


def described(ratios: Sequence[float]) -> str:
    """A line on a sweep: ``layer profile: largest x1.21 in layer 11, x1.13 in layer 10 …``."""
    order = sorted(range(len(ratios)), key=lambda layer: (-ratios[layer], layer))
    shown = [f"x{ratios[layer]:.4g} in layer {layer}" for layer in order[:3]]
    rest = len(order) > 3
    least = f"; smallest x{ratios[order[-1]]:.4g} in layer {order[-1]}" if rest else ""
    return f"layer profile: largest {', '.join(shown)}{least}"


def _largest(looks: Sequence[Decision]) -> Decision:
    return max(looks, key=lambda look: look.ratio)


def _step(looks: Sequence[Decision]) -> Step:
    """The layer with the largest ratio so far, which may be another one later."""
    largest = _largest(looks)
    return step(largest, text_blocks=largest.text_blocks)
