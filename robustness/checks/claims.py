"""What can be claimed of a model, intact or ablated; each statement ends in a verdict."""

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

import numpy as np

from robustness.ablation.interventions import FixedAblation
from robustness.checks.claim_details import draw_ratios, intact_details, precision_details, slack_of
from robustness.measurement.evidence import (
    Compare,
    ControlEvidence,
    control_evidence,
    fixed_evidence,
    intact_evidence,
)
from robustness.outliers.outlier_dimensions import named
from robustness.scoring.sampling import random_candidates, random_dims
from robustness.statistics.decisions import NOTHING_EXCLUDED
from robustness.statistics.history import course, step
from robustness.statistics.verdict import (
    Decision,
    Outcome,
    Precision,
    Side,
    Verdict,
    blind_share,
    decide_factor,
    decide_median,
    decide_ratio,
    reduced_precision,
    reduced_precision_of_draws,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from robustness.ablation.ablation import Ablation
    from robustness.scoring.quantity import Quantity
    from robustness.vetting import Vetting

_Deltas: TypeAlias = "Mapping[str, NDArray[Any]]"
_Precisions: TypeAlias = tuple[Precision, ...]


class _Model:
    """Something that is asked for verdicts, and is none itself."""

    questions = ""

    def __bool__(self) -> NoReturn:
        raise TypeError(f"{self!r} is no verdict: ask it {self.questions}")


class IntactModel(_Model):
    """The model as it is; see :meth:`Vetting.intact`."""

    questions = ".beats_uniform_guess()"

    def __init__(self, vetting: "Vetting") -> None:
        self._vetting = vetting

    def beats_uniform_guess(
        self, *, confidence: float | None = None, alpha: float | None = None
    ) -> Verdict:
        """Whether perplexity lies below the vocabulary size, that of a uniform guess.

        The verdict's ratio is perplexity / vocabulary size.
        """
        vetting = self._vetting
        level = vetting.alpha(confidence, alpha)
        chance = vetting.measurement.scoring_plan.chance_nats
        statement = vetting.quantity.better_than_chance(vetting.checkpoint.vocab_size, chance)
        for limit in (math.exp(chance), None):
            steps = []
            for evidence in intact_evidence(vetting.measurement, threshold=limit):
                look = decide_ratio(
                    evidence.nll_nats - chance * evidence.tokens,
                    evidence.tokens,
                    threshold=1.0,
                    alpha=level,
                    exhausted=evidence.exhausted,
                    slack_nats=slack_of(evidence.comparison)[0],
                )
                steps.append(step(look, text_blocks=look.text_blocks))
                found = vetting.quantity.figure(evidence.mean_nll_nats)
                vetting.report_progress(
                    statement,
                    len(evidence.tokens),
                    f"{found:.4g}",
                    interval=_figures(look.interval, chance, vetting.quantity),
                )
                if look.side and (evidence.exhausted or not vetting.settings.exhaustive):
                    break
            if look.side:
                break  # otherwise reduced precision leaves it open: once more, in float32
        return Verdict.of(
            look,
            "pass" if look.side == "below" else "fail",
            statement=statement,
            threshold=1.0,
            passes="below",
            details={
                **intact_details(vetting, evidence),
                **precision_details(evidence.comparison),
            },
            course=course(steps),
        )


class AblatedModel(_Model):
    """A model without some dimensions; see :meth:`Vetting.ablate`."""

    questions = ".degrades(by=…), .is_harmless(within=…) or .matters_more_than_chance()"

    def __init__(self, vetting: "Vetting", ablation: "Ablation") -> None:
        self._vetting = vetting
        self.ablation = ablation

    def __repr__(self) -> str:
        return f"<{self._vetting.checkpoint.label} without {named(self.ablation.dims)}>"

    def degrades(
        self, *, by: float, confidence: float | None = None, alpha: float | None = None
    ) -> Verdict:
        """Whether the ablation multiplies perplexity by at least ``by``."""
        growth = self._vetting.quantity.grows("at least", by)
        statement = f"ablating {self._named} {growth}"
        return self._decided(statement, by, self._vetting.alpha(confidence, alpha), passes="above")

    def is_harmless(
        self, *, within: float, confidence: float | None = None, alpha: float | None = None
    ) -> Verdict:
        """Whether the ablation multiplies perplexity by less than ``within``."""
        growth = self._vetting.quantity.grows("less than", within)
        statement = f"ablating {self._named} {growth}"
        return self._decided(
            statement, within, self._vetting.alpha(confidence, alpha), passes="below"
        )

    def matters_more_than_chance(
        self, *, factor: float = 5.0, confidence: float | None = None, alpha: float | None = None
    ) -> Verdict:
        """Whether its ΔNLL is at least ``factor`` times that of as many random dimensions."""
        vetting = self._vetting
        control = RandomlyAblatedModel(vetting, len(self.ablation.dims), self.ablation)
        return control.decide_factor(self.ablation, factor, vetting.alpha(confidence, alpha))

    @property
    def _named(self) -> str:
        return f"{named(self.ablation.dims)}{self.ablation.where}"

    def _decided(self, statement: str, threshold: float, alpha: float, *, passes: Side) -> Verdict:
        vetting = self._vetting
        intervention = FixedAblation(ablation=self.ablation)
        for limit in (threshold, None):
            steps = []
            for evidence in fixed_evidence(vetting.measurement, intervention, threshold=limit):
                intact = evidence.intact
                look = decide_ratio(
                    evidence.delta_nll,
                    intact.tokens,
                    threshold=threshold,
                    alpha=alpha,
                    exhausted=intact.exhausted,
                    slack_nats=slack_of(evidence.comparison)[0],
                )
                steps.append(step(look, text_blocks=look.text_blocks))
                seen = len(intact.tokens)
                found = f"x{look.ratio:.4g}"
                vetting.report_progress(statement, seen, found, interval=look.interval)
                if look.side and (intact.exhausted or not vetting.settings.exhaustive):
                    break
            if look.side:
                break  # otherwise reduced precision leaves it open: once more, in float32
        return Verdict.of(
            look,
            "pass" if look.side == passes else "fail",
            statement=statement,
            threshold=threshold,
            passes=passes,
            details={
                **intact_details(vetting, intact),
                **_blindness(look, alpha),
                **precision_details(evidence.comparison),
            },
            course=course(steps),
        )


class RandomlyAblatedModel(_Model):
    """A model without random dimensions; see :meth:`Vetting.ablate_random`."""

    questions = ".is_harmless(within=…)"

    def __init__(self, vetting: "Vetting", size: int, like: "Ablation") -> None:
        self._candidates = random_candidates(
            vetting.outliers().dims, hidden_size=vetting.model_profile.hidden_size, size=size
        )
        self._vetting = vetting
        self._size = size
        self._like = like  # where and how, its dimensions aside

    def __repr__(self) -> str:
        return f"<{self._vetting.checkpoint.label} without {_counted(self._size)}>"

    def is_harmless(
        self, *, within: float, confidence: float | None = None, alpha: float | None = None
    ) -> Verdict:
        """Whether the typical (median) draw multiplies perplexity by less than ``within``."""
        vetting = self._vetting
        level = vetting.alpha(confidence, alpha)
        growth = vetting.quantity.grows("less than", within)
        statement = f"the median ablation of {_counted(self._size)}{self._like.where} {growth}"

        def compare(reduced: _Deltas, full: _Deltas, tokens: "NDArray[Any]") -> _Precisions:
            deltas = reduced["delta"], full["delta"]
            return (reduced_precision_of_draws(*deltas, tokens, threshold=within),)

        for judge in (compare, None):
            steps = []
            for evidence in self._evidence(None, judge):
                if not len(evidence.draw_tokens):
                    continue
                look = decide_median(
                    evidence.draw_delta_nll,
                    evidence.draw_tokens,
                    threshold=within,
                    alpha=level,
                    slack=slack_of(evidence.comparison)[0] / float(np.mean(evidence.tokens)),
                )
                steps.append(step(look, text_blocks=len(evidence.tokens)))
                found, most = f"x{look.median:.4g}", self._most(evidence)
                vetting.report_progress(
                    statement, len(evidence.tokens), found, interval=look.interval, most=most
                )
                if self._finished(evidence, decided=look.side is not None):
                    break
            if look.side or not slack_of(evidence.comparison)[0]:
                break  # otherwise reduced precision leaves it open: once more, in float32
        return Verdict(
            outcome=_outcome({"below": True, "above": False}.get(look.side or "")),
            statement=statement,
            ratio=look.median,
            interval=look.interval,
            threshold=within,
            passes="below",
            text_blocks=len(evidence.tokens),
            tokens=int(evidence.tokens.sum()),
            exact=False,
            details={
                **intact_details(vetting, evidence.intact),
                "draws": len(evidence.draw_tokens),
                "mean_ratio": look.mean,
                "quantiles": dict(look.quantiles),
                "worst_draws": self._worst(evidence, look.worst),
                "draw_ratios": draw_ratios(evidence),
                **precision_details(evidence.comparison),
            },
            reason="" if look.side else "the draws allowed by max_draws do not decide the median",
            course=course(steps),
        )

    def decide_factor(self, joint: "Ablation", factor: float, alpha: float) -> Verdict:
        """Whether the joint ΔNLL is positive and at least ``factor`` times the mean control's."""
        vetting = self._vetting
        statement = (
            f"ablating {named(joint.dims)}{joint.where} adds at least {factor:g} times as many "
            f"nats as ablating {_counted(self._size)}"
        )

        def excess(deltas: _Deltas) -> "NDArray[Any]":
            return np.asarray(deltas["joint"] - factor * deltas["delta"])

        def compare(reduced: _Deltas, full: _Deltas, tokens: "NDArray[Any]") -> _Precisions:
            pairs = (excess(reduced), excess(full)), (reduced["joint"], full["joint"])
            return tuple(reduced_precision(*pair, tokens, threshold=1.0) for pair in pairs)

        for judge in (compare, None):
            steps = []
            for evidence in self._evidence(joint, judge):
                assert evidence.joint_delta_nll is not None
                slack = (*slack_of(evidence.comparison), 0.0)[:2]
                # Text blocks of one draw share its harm: a draw is the unit, and only if complete.
                complete = evidence.draw < len(evidence.draw_tokens)
                if not complete.any():
                    continue
                look = decide_factor(
                    evidence.joint_delta_nll[complete],
                    evidence.delta_nll[complete],
                    factor=factor,
                    alpha=alpha,
                    draws=evidence.draw[complete],
                    joint_corpus_nats=None if any(slack) else evidence.joint_corpus_nats,
                    slack_nats=(slack[0], slack[1]),
                )
                steps.append(step(look, text_blocks=len(evidence.tokens)))
                found = f"{look.joint_mean:.3g} and {look.control_mean:.3g} nats per text block"
                most = self._most(evidence)
                vetting.report_progress(statement, len(evidence.tokens), found, most=most)
                if self._finished(evidence, decided=look.side is not None):
                    break
            if look.side or not any(slack):
                break  # otherwise reduced precision leaves it open: once more, in float32
        return Verdict(
            outcome=_outcome({"above": True, "below": False}.get(look.side or "")),
            statement=statement,
            ratio=look.ratio,
            interval=None,
            threshold=factor,
            passes="above",
            text_blocks=len(evidence.tokens),
            tokens=int(evidence.tokens.sum()),
            exact=False,
            details={
                **intact_details(vetting, evidence.intact),
                "joint_nats_per_block": look.joint_mean,
                "control_nats_per_block": look.control_mean,
                **precision_details(evidence.comparison),
            },
            reason=(
                f"{look.joint_mean:.3g} nats per text block against {look.control_mean:.3g} of the "
                "random control" + ("" if look.side else "; max_draws draws do not decide it")
            ),
            course=course(steps),
        )

    def _evidence(
        self, joint: "Ablation | None", compare: Compare | None
    ) -> Iterable[ControlEvidence]:
        return control_evidence(
            self._vetting.measurement,
            candidates=self._candidates,
            size=self._size,
            like=self._like,
            joint=joint,
            compare=compare,
        )

    def _finished(self, evidence: ControlEvidence, *, decided: bool) -> bool:
        settings = self._vetting.settings
        enough = evidence.passes > 0 or not settings.exhaustive
        limit = settings.checks.random_ablation_is_harmless.max_draws
        return enough and (decided or len(evidence.draw_tokens) >= limit)

    def _most(self, evidence: ControlEvidence) -> int:
        """Text blocks after which ``max_draws`` draws, about as long as those so far, are done."""
        limit = self._vetting.settings.checks.random_ablation_is_harmless.max_draws
        return round(len(evidence.tokens) * limit / len(evidence.draw_tokens))

    def _worst(self, evidence: ControlEvidence, draws: Iterable[int]) -> list[dict[str, Any]]:
        log_ratio = evidence.draw_delta_nll / evidence.draw_tokens
        seed = self._vetting.settings.seed
        worst: dict[tuple[int, ...], float] = {}  # the same dimensions may be drawn twice
        for draw in draws:
            dims = random_dims(self._candidates, self._size, seed=seed, draw=draw)
            worst.setdefault(dims, float(np.exp(log_ratio[draw])))
        return [{"dims": list(dims), "ratio": ratio} for dims, ratio in worst.items()]


def _figures(
    interval: tuple[float, float] | None, chance_nats: float, quantity: "Quantity"
) -> tuple[float, float] | None:
    """The interval of what is measured, from that of its ratio to chance, once there is one."""
    if interval is None or interval == NOTHING_EXCLUDED or interval[0] <= 0:
        return None
    low, high = (quantity.figure(math.log(end) + chance_nats) for end in interval)
    return low, high


def _counted(size: int) -> str:
    return f"{size} random dimension{'s' * (size > 1)}"


def _outcome(passed: bool | None) -> Outcome:
    if passed is None:
        return "inconclusive"
    return "pass" if passed else "fail"


def _blindness(look: Decision, alpha: float) -> Mapping[str, float]:
    """The share of text blocks that may suffer unseen, where a ratio was estimated to lie below."""
    if look.side != "below" or look.exact:
        return {}
    return {"blind_share": blind_share(look.text_blocks, alpha)}
