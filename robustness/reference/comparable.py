"""Whether two checkpoints read the same text in the same tokens, so that numbers can be paired."""

from collections.abc import Mapping
from typing import Any

from robustness.checkpoint.checkpoint import Checkpoint
from robustness.errors import BaselineError
from robustness.measurement.measure import Measurement
from robustness.runtime.plain import plain
from robustness.store.context import Context


def require_same_tokens(candidate: Checkpoint, reference: Checkpoint, context: Context) -> None:
    """Refuse checkpoints that number their tokens differently, as far as both have numbers.

    Raises:
        BaselineError: that names the first token that differs.
    """
    if candidate.tokenizer_hash == reference.tokenizer_hash:
        return
    hashes = {"tokenizers": [candidate.tokenizer_hash, reference.tokenizer_hash], "version": 1}

    def compare(_: Mapping[str, Any]) -> dict[str, Any]:
        ours, theirs = (_by_number(each) for each in (candidate, reference))
        both = sorted(ours.keys() & theirs.keys())
        number = next((number for number in both if ours[number] != theirs[number]), None)
        return {} if number is None else {"n": number, "tokens": [ours[number], theirs[number]]}

    (record,) = context.store(hashes).obtain([{"first": 1}], compare)
    if record:
        ours, theirs = (plain(repr(token), limit=60) for token in record["tokens"])
        raise BaselineError(
            f"{candidate.label} and its reference {reference.label} have different vocabularies: "
            f"token {record['n']} is {ours} here and {theirs} in the reference; a candidate is "
            "held against a checkpoint with the same tokenizer"
        )


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


def _by_number(checkpoint: Checkpoint) -> dict[int, str]:
    vocabulary = checkpoint.load_tokenizer().get_vocab()
    return {number: token for token, number in vocabulary.items()}
