"""What can be claimed of a model, intact or ablated; each claim ends in a verdict."""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

import numpy as np

from robustness.evidence import (
    Compare,
    Comparison,
    ControlEvidence,
    IntactEvidence,
    control_evidence,
    fixed_evidence,
    intact_evidence,
)
from robustness.outliers import Detection, Outlier
from robustness.sampling import random_dims
from robustness.text_size import normalised_perplexity
from robustness.verdict import (
    Look,
    Outcome,
    Precision,
    Side,
    Verdict,
    blind_share,
    look_at_draws,
    look_at_factor,
    look_at_ratio,
    reduced_precision,
    reduced_precision_of_draws,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from robustness.ablation import Ablation
    from robustness.vetting import Vetting

_Deltas: TypeAlias = "Mapping[str, NDArray[Any]]"
_Precisions: TypeAlias = tuple[Precision, ...]


class OutlierDimensions:
    """The outlier dimensions a rule found; iterates over their indices."""

    def __init__(self, detection: Detection) -> None:
        self.detection = detection

    @property
    def dims(self) -> tuple[int, ...]:
        """Their indices in the hidden vector, ascending."""
        return self.detection.dims

    def __iter__(self) -> Iterator[int]:
        return iter(self.dims)

    def __len__(self) -> int:
        return len(self.dims)

    def __contains__(self, dim: object) -> bool:
        return dim in self.dims

    def __getitem__(self, index: int) -> Outlier:
        """One outlier with its layers and z-scores."""
        return self.detection.outliers[index]

    def __repr__(self) -> str:
        return f"<{self.detection.rule}: {named(self.dims) if self.dims else 'none'}>"

    def count_lies_within(self, minimum: int, maximum: int) -> Verdict:
        """Whether there are at least ``minimum`` and at most ``maximum``."""
        found = len(self)
        passed = minimum <= found <= maximum
        reason = self._found()
        if found < minimum:
            reason += (
                ": this can mean an undertrained model, one whose outliers another rule or site "
                "would show, or one built to have none (profile hardened)"
            )
        elif found > maximum:
            reason += ": this can mean that the rule is too lax for this model (see its settings)"
        return Verdict(
            outcome="pass" if passed else "fail",
            claim=f"the rule finds {minimum} to {maximum} outlier dimensions",
            reason=reason,
            details=self._details(),
        )

    def noted(self) -> Verdict:
        """Whatever was found is accepted and recorded."""
        claim = "outlier dimensions are looked for (a hardened model may have some or none)"
        return Verdict(outcome="pass", claim=claim, reason=self._found(), details=self._details())

    def _found(self) -> str:
        return f"found {named(self.dims)}" if self.dims else "no outlier dimensions were found"

    def _details(self) -> Mapping[str, Any]:
        return {"rule": self.detection.rule, "expected_by_chance": self.detection.by_chance}


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
        chance = vetting.measurement.asked.chance_nats
        claim = vetting.quantity.better_than_chance(vetting.checkpoint.vocab_size, chance)
        for limit in (math.exp(chance), None):
            for evidence in intact_evidence(vetting.measurement, threshold=limit):
                look = look_at_ratio(
                    evidence.nll_nats - chance * evidence.tokens,
                    evidence.tokens,
                    threshold=1.0,
                    alpha=level,
                    exhausted=evidence.exhausted,
                    slack_nats=_slack(evidence.comparison)[0],
                )
                found = vetting.quantity.figure(evidence.mean_nll_nats)
                vetting.report_progress(claim, len(evidence.tokens), f"{found:.4g}")
                if look.side and (evidence.exhausted or not vetting.settings.exhaustive):
                    break
            if look.side:
                break  # otherwise reduced precision leaves it open: once more, in float32
        return Verdict(
            outcome="pass" if look.side == "below" else "fail",
            claim=claim,
            ratio=look.ratio,
            interval=look.interval,
            threshold=1.0,
            passes="below",
            text_blocks=look.text_blocks,
            tokens=look.tokens,
            exact=look.exact,
            details={
                **_intact_details(vetting, evidence),
                **_precision_details(evidence.comparison),
            },
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
        claim = f"ablating {self._named} {growth}"
        return self._decided(claim, by, self._vetting.alpha(confidence, alpha), passes="above")

    def is_harmless(
        self, *, within: float, confidence: float | None = None, alpha: float | None = None
    ) -> Verdict:
        """Whether the ablation multiplies perplexity by less than ``within``."""
        growth = self._vetting.quantity.grows("less than", within)
        claim = f"ablating {self._named} {growth}"
        return self._decided(claim, within, self._vetting.alpha(confidence, alpha), passes="below")

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

    def _decided(self, claim: str, threshold: float, alpha: float, *, passes: Side) -> Verdict:
        vetting = self._vetting
        for limit in (threshold, None):
            for evidence in fixed_evidence(vetting.measurement, self.ablation, threshold=limit):
                intact = evidence.intact
                look = look_at_ratio(
                    evidence.delta_nll,
                    intact.tokens,
                    threshold=threshold,
                    alpha=alpha,
                    exhausted=intact.exhausted,
                    slack_nats=_slack(evidence.comparison)[0],
                )
                vetting.report_progress(claim, len(intact.tokens), f"x{look.ratio:.4g}")
                if look.side and (intact.exhausted or not vetting.settings.exhaustive):
                    break
            if look.side:
                break  # otherwise reduced precision leaves it open: once more, in float32
        return Verdict(
            outcome="pass" if look.side == passes else "fail",
            claim=claim,
            ratio=look.ratio,
            interval=look.interval,
            threshold=threshold,
            passes=passes,
            text_blocks=look.text_blocks,
            tokens=look.tokens,
            exact=look.exact,
            details={
                **_intact_details(vetting, intact),
                **_blindness(look, alpha),
                **_precision_details(evidence.comparison),
            },
        )


class RandomlyAblatedModel(_Model):
    """A model without random dimensions; see :meth:`Vetting.ablate_random`."""

    questions = ".is_harmless(within=…)"

    def __init__(self, vetting: "Vetting", size: int, like: "Ablation") -> None:
        outliers = set(vetting.outliers().dims)
        dims = range(vetting.examination.hidden_size)
        self._candidates = [dim for dim in dims if dim not in outliers]
        if not 0 < size <= len(self._candidates):
            raise ValueError(
                f"cannot ablate {size} random dimensions: there are {len(self._candidates)} "
                "that are not outliers"
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
        claim = f"the median ablation of {_counted(self._size)}{self._like.where} {growth}"

        def compare(reduced: _Deltas, full: _Deltas, tokens: "NDArray[Any]") -> _Precisions:
            deltas = reduced["delta"], full["delta"]
            return (reduced_precision_of_draws(*deltas, tokens, threshold=within),)

        for judge in (compare, None):
            for evidence in self._evidence(None, judge):
                if not len(evidence.draw_tokens):
                    continue
                look = look_at_draws(
                    evidence.draw_delta_nll,
                    evidence.draw_tokens,
                    threshold=within,
                    alpha=level,
                    slack=_slack(evidence.comparison)[0] / float(np.mean(evidence.tokens)),
                )
                vetting.report_progress(claim, len(evidence.tokens), f"x{look.median:.4g}")
                if self._finished(evidence, decided=look.side is not None):
                    break
            if look.side or not _slack(evidence.comparison)[0]:
                break  # otherwise reduced precision leaves it open: once more, in float32
        return Verdict(
            outcome=_outcome({"below": True, "above": False}.get(look.side or "")),
            claim=claim,
            ratio=look.median,
            interval=look.interval,
            threshold=within,
            passes="below",
            text_blocks=len(evidence.tokens),
            tokens=int(evidence.tokens.sum()),
            exact=False,
            details={
                **_intact_details(vetting, evidence.intact),
                "draws": len(evidence.draw_tokens),
                "mean_ratio": look.mean,
                "quantiles": dict(look.quantiles),
                "worst_draws": self._worst(evidence, look.worst),
                **_precision_details(evidence.comparison),
            },
            reason="" if look.side else "the draws allowed by max_draws do not decide the median",
        )

    def decide_factor(self, joint: "Ablation", factor: float, alpha: float) -> Verdict:
        """Whether the joint ΔNLL is positive and at least ``factor`` times the mean control's."""
        vetting = self._vetting
        claim = (
            f"ablating {named(joint.dims)}{joint.where} adds at least {factor:g} times as many "
            f"nats as ablating {_counted(self._size)}"
        )

        def excess(deltas: _Deltas) -> "NDArray[Any]":
            return np.asarray(deltas["joint"] - factor * deltas["delta"])

        def compare(reduced: _Deltas, full: _Deltas, tokens: "NDArray[Any]") -> _Precisions:
            pairs = (excess(reduced), excess(full)), (reduced["joint"], full["joint"])
            return tuple(reduced_precision(*pair, tokens, threshold=1.0) for pair in pairs)

        for judge in (compare, None):
            for evidence in self._evidence(joint, judge):
                assert evidence.joint_delta_nll is not None
                slack = (*_slack(evidence.comparison), 0.0)[:2]
                # Text blocks of one draw share its harm: a draw is the unit, and only if complete.
                complete = evidence.draw < len(evidence.draw_tokens)
                if not complete.any():
                    continue
                look = look_at_factor(
                    evidence.joint_delta_nll[complete],
                    evidence.delta_nll[complete],
                    factor=factor,
                    alpha=alpha,
                    draws=evidence.draw[complete],
                    joint_corpus_nats=None if any(slack) else evidence.joint_corpus_nats,
                    slack_nats=(slack[0], slack[1]),
                )
                found = f"{look.joint_mean:.3g} and {look.control_mean:.3g} nats per text block"
                vetting.report_progress(claim, len(evidence.tokens), found)
                if self._finished(evidence, decided=look.side is not None):
                    break
            if look.side or not any(slack):
                break  # otherwise reduced precision leaves it open: once more, in float32
        return Verdict(
            outcome=_outcome({"above": True, "below": False}.get(look.side or "")),
            claim=claim,
            ratio=look.ratio,
            interval=None,
            threshold=factor,
            passes="above",
            text_blocks=len(evidence.tokens),
            tokens=int(evidence.tokens.sum()),
            exact=False,
            details={
                **_intact_details(vetting, evidence.intact),
                "joint_nats_per_block": look.joint_mean,
                "control_nats_per_block": look.control_mean,
                **_precision_details(evidence.comparison),
            },
            reason=(
                f"{look.joint_mean:.3g} nats per text block against {look.control_mean:.3g} of the "
                "random control" + ("" if look.side else "; max_draws draws do not decide it")
            ),
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

    def _worst(self, evidence: ControlEvidence, draws: Iterable[int]) -> list[dict[str, Any]]:
        log_ratio = evidence.draw_delta_nll / evidence.draw_tokens
        seed = self._vetting.settings.seed
        worst: dict[tuple[int, ...], float] = {}  # the same dimensions may be drawn twice
        for draw in draws:
            dims = random_dims(self._candidates, self._size, seed=seed, draw=draw)
            worst.setdefault(dims, float(np.exp(log_ratio[draw])))
        return [{"dims": list(dims), "ratio": ratio} for dims, ratio in worst.items()]


def named(dims: Iterable[int]) -> str:
    """``dimension 3`` or ``dimensions 3, 5``."""
    numbers = list(dims)
    return f"dimension{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"


def _counted(size: int) -> str:
    return f"{size} random dimension{'s' * (size > 1)}"


def _outcome(passed: bool | None) -> Outcome:
    if passed is None:
        return "inconclusive"
    return "pass" if passed else "fail"


def _blindness(look: Look, alpha: float) -> Mapping[str, float]:
    """The share of text blocks that may suffer unseen, where a ratio was estimated to lie below."""
    if look.side != "below" or look.exact:
        return {}
    return {"blind_share": blind_share(look.text_blocks, alpha)}


def _intact_details(vetting: "Vetting", evidence: IntactEvidence) -> Mapping[str, Any]:
    """What is said of the intact model: a perplexity only where the measured quantity is one."""
    loss = evidence.mean_nll_nats
    return {
        "intact_perplexity": float(np.exp(loss)) if vetting.quantity.is_perplexity else None,
        "intact_nats_per_token": loss,
        "chance_nats_per_token": vetting.measurement.asked.chance_nats,
        "intact_text": _per_text(vetting, evidence),
        "intact_text_blocks": len(evidence.tokens),
        "intact_tokens": int(evidence.tokens.sum()),
    }


def _slack(comparison: Comparison | None) -> tuple[float, ...]:
    """How far reduced precision widens the interval of each mean, in nats per text block."""
    return (0.0,) if comparison is None else comparison.slack_nats


def _precision_details(comparison: Comparison | None) -> Mapping[str, Any]:
    """Which precision was used behind the first text blocks, and what the reduced one costs."""
    if comparison is None:
        return {}
    found = [precision.to_dict() for precision in comparison.precisions]
    return {"dtype": comparison.dtype, "reduced_precision": found}


def _per_text(vetting: "Vetting", evidence: IntactEvidence) -> Mapping[str, Any] | None:
    """Perplexity per word and byte of the text blocks seen, where it is one and both are known."""
    sizes = vetting.measurement.asked.sizes if vetting.quantity.is_perplexity else None
    if sizes is None:
        return None
    seen = slice(0, len(evidence.tokens))
    return normalised_perplexity(
        evidence.mean_nll_nats,
        tokens=int(sizes.tokens[seen].sum()),
        words=int(sizes.words[seen].sum()),
        utf8_bytes=int(sizes.utf8_bytes[seen].sum()),
    )
