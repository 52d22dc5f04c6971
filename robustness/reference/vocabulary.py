"""Whether two checkpoints read and predict the same tokens."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from robustness.errors import BaselineError
from robustness.runtime.plain import plain
from robustness.store.context import Context

if TYPE_CHECKING:
    from robustness.checkpoint.checkpoint import Checkpoint


def require_same_vocabulary(
    candidate: "Checkpoint", reference: "Checkpoint", context: Context
) -> None:
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
            f"{candidate.reference} and its reference {reference.reference} have different "
            f"vocabularies: token {record['n']} is {ours} here and {theirs} in the reference; a "
            "candidate is held against a checkpoint with the same tokenizer"
        )


def _by_number(checkpoint: "Checkpoint") -> dict[int, str]:
    vocabulary = checkpoint.load_tokenizer().get_vocab()
    return {number: token for token, number in vocabulary.items()}
