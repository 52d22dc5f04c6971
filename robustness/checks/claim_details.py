"""What a verdict's details say of the intact model and of the precision it was measured in."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from robustness.corpus.text_size import normalised_perplexity
from robustness.measurement.evidence import Comparison, ControlEvidence, IntactEvidence

if TYPE_CHECKING:
    from robustness.vetting import Vetting


def intact_details(vetting: "Vetting", evidence: IntactEvidence) -> Mapping[str, Any]:
    """What is said of the intact model: a perplexity only where the measured quantity is one."""
    loss = evidence.mean_nll_nats
    return {
        "intact_perplexity": float(np.exp(loss)) if vetting.quantity.is_perplexity else None,
        "intact_nats_per_token": loss,
        "chance_nats_per_token": vetting.measurement.scoring_plan.chance_nats,
        "intact_text": _per_text(vetting, evidence),
        "intact_text_blocks": len(evidence.tokens),
        "intact_tokens": int(evidence.tokens.sum()),
    }


def draw_ratios(evidence: ControlEvidence) -> list[float]:
    """The degradation of every finished random draw, in their order; may be infinite."""
    with np.errstate(over="ignore"):
        ratios: list[float] = np.exp(evidence.draw_delta_nll / evidence.draw_tokens).tolist()
    return ratios


def slack_of(comparison: Comparison | None) -> tuple[float, ...]:
    """How far reduced precision widens the interval of each mean, in nats per text block."""
    return (0.0,) if comparison is None else comparison.slack_nats


def precision_details(comparison: Comparison | None) -> Mapping[str, Any]:
    """Which precision was used behind the first text blocks, and what the reduced one costs."""
    if comparison is None:
        return {}
    found = [precision.to_dict() for precision in comparison.precisions]
    return {"dtype": comparison.dtype, "reduced_precision": found}


def _per_text(vetting: "Vetting", evidence: IntactEvidence) -> Mapping[str, Any] | None:
    """Perplexity per word and byte of the text blocks seen, where it is one and both are known."""
    sizes = vetting.measurement.scoring_plan.sizes if vetting.quantity.is_perplexity else None
    if sizes is None:
        return None
    seen = slice(0, len(evidence.tokens))
    return normalised_perplexity(
        evidence.mean_nll_nats,
        tokens=int(sizes.tokens[seen].sum()),
        words=int(sizes.words[seen].sum()),
        utf8_bytes=int(sizes.utf8_bytes[seen].sum()),
    )
