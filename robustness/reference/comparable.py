"""Whether two checkpoints read the same text in the same tokens, so that numbers can be paired."""

from robustness.errors import BaselineError
from robustness.measurement.measure import Measurement
from robustness.runtime.plain import plain


def require_same_text(candidate: Measurement, reference: Measurement) -> None:
    """Refuse checkpoints that are asked other questions, or cut the text into other tokens.

    Raises:
        BaselineError: that says what differs.
    """
    ours, theirs = candidate.checkpoint, reference.checkpoint
    who = f"{ours.label} and its reference {theirs.label} cannot be compared"
    if ours.scoring != theirs.scoring:
        raise BaselineError(
            f"{who}: one is scored as {ours.scoring}, the other as {theirs.scoring}"
        )
    plans = candidate.scoring_plan, reference.scoring_plan
    if plans[0].text_blocks_sha256 != plans[1].text_blocks_sha256:
        raise BaselineError(f"{who}: {_first_difference(candidate, reference)}")


def _first_difference(candidate: Measurement, reference: Measurement) -> str:
    if candidate.block_size != reference.block_size:
        return (
            f"one has positions for text blocks of {candidate.block_size} tokens, the other for "
            f"{reference.block_size}: choose the smaller one with --robustness-block-size"
        )
    ours, theirs = candidate.scoring_plan, reference.scoring_plan
    for block in range(min(ours.layout.n_blocks, theirs.layout.n_blocks)):
        pair = ours.tokens(block), theirs.tokens(block)
        if pair[0] != pair[1]:
            place = next(
                (n for n, (a, b) in enumerate(zip(*pair, strict=False)) if a != b),
                min(map(len, pair)),
            )
            shown = (
                plain(repr(plan.decode(tokens[place : place + 1])), limit=60)
                for plan, tokens in zip((ours, theirs), pair, strict=True)
            )
            here, there = shown
            return (
                f"their tokenizers cut the text differently: token {place} of text block {block} "
                f"is {here} here and {there} in the reference"
            )
    return (
        f"their tokenizers cut the text into {ours.layout.n_blocks} and "
        f"{theirs.layout.n_blocks} text blocks"
    )
