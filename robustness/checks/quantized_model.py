"""What can be claimed of a model in simulated int8; each statement ends in a verdict."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from robustness.ablation.interventions import Intact, Quantized
from robustness.checks.claim_details import intact_details, precision_details, slack_of
from robustness.measurement.evidence import fixed_evidence
from robustness.outliers.outlier_dimensions import named
from robustness.statistics.verdict import Decision, Verdict, blind_share, decide_ratio

if TYPE_CHECKING:
    from robustness.vetting import Vetting


class QuantizedModel:
    """A model with 8-bit weights and activations; see :meth:`Vetting.quantized`.

    Args:
        vetting: of the checkpoint.
        spared: dimensions whose part in the loss is asked for.
    """

    def __init__(self, vetting: "Vetting", spared: tuple[int, ...]) -> None:
        self._vetting = vetting
        self._spared = spared

    def __repr__(self) -> str:
        return f"<{self._vetting.checkpoint.label} in int8>"

    def __bool__(self) -> NoReturn:
        raise TypeError(f"{self!r} is no verdict: ask it .is_harmless(within=…)")

    def is_harmless(
        self, *, within: float, confidence: float | None = None, alpha: float | None = None
    ) -> Verdict:
        """Whether it multiplies perplexity by less than ``within``.

        The details say what remains of the loss, on the same text blocks, where the outlier
        dimensions stay in float.
        """
        vetting = self._vetting
        level = vetting.alpha(confidence, alpha)
        statement = f"int8 weights and activations {vetting.quantity.grows('less than', within)}"
        for limit in (within, None):
            for evidence in fixed_evidence(vetting.measurement, Quantized(), threshold=limit):
                look = decide_ratio(
                    evidence.delta_nll,
                    evidence.intact.tokens,
                    threshold=within,
                    alpha=level,
                    exhausted=evidence.intact.exhausted,
                    slack_nats=slack_of(evidence.comparison)[0],
                )
                seen = len(evidence.intact.tokens)
                vetting.report_progress(statement, seen, f"x{look.ratio:.4g}")
                if look.side and (evidence.intact.exhausted or not vetting.settings.exhaustive):
                    break
            if look.side:
                break  # otherwise reduced precision leaves it open: once more, in float32
        details = self._without_outliers(look.text_blocks)
        return Verdict.of(
            look,
            "pass" if look.side == "below" else "fail",
            statement=statement,
            threshold=within,
            passes="below",
            reason=described(details) if details else "",
            details={
                **intact_details(vetting, evidence.intact),
                **details,
                **({"blind_share": blind_share(look.text_blocks, level)} if _blind(look) else {}),
                **precision_details(evidence.comparison),
            },
        )

    def _without_outliers(self, text_blocks: int) -> Mapping[str, Any]:
        """The same with the outlier dimensions in float, on the same text blocks."""
        if not self._spared:
            return {}
        measurement = self._vetting.measurement
        spared = Quantized(spared=self._spared)
        nats, whole, tokens, seen = 0.0, 0.0, 0, 0
        for index in range(measurement.n_chunks):
            if seen == text_blocks:
                break
            intact, all_int8, other = measurement.chunk(index, Intact(), Quantized(), spared)
            nats += float((other.nll_nats - intact.nll_nats).sum())
            whole += float((all_int8.nll_nats - intact.nll_nats).sum())
            tokens += int(intact.tokens.sum())
            seen += len(intact.tokens)
        return {
            "int8_ratio": _exp(whole / tokens),
            "int8_ratio_without_outliers": _exp(nats / tokens),
            "int8_spared_dims": list(self._spared),
            "int8_share_of_outliers": share(whole, nats),
        }


def share(all_nats: float, spared_nats: float) -> float | None:
    """The part of the nats lost to int8 that is not lost where some dimensions stay in float.

    ``None`` where nothing was lost that could have parts.
    """
    if not all_nats > 0 or not math.isfinite(all_nats):
        return None
    return 1 - spared_nats / all_nats


def described(details: Mapping[str, Any]) -> str:
    """What the outlier dimensions have to do with it, in one phrase."""
    dims = named(details["int8_spared_dims"])
    text = (
        f"int8: x{float(details['int8_ratio']):.4g}; with {dims} left in float: "
        f"x{float(details['int8_ratio_without_outliers']):.4g}"
    )
    part = details["int8_share_of_outliers"]
    return text if part is None else f"{text}, {part:.0%} of the loss gone"


def _blind(look: Decision) -> bool:
    return look.side == "below" and not look.exact


def _exp(value: float) -> float:
    return float(np.exp(value)) if value < 700 else math.inf
