"""Whether two checkpoints read and predict the same tokens."""

from typing import TYPE_CHECKING

from robustness.errors import CheckpointError

if TYPE_CHECKING:
    from robustness.checkpoint.checkpoint import Checkpoint


def require_same_vocabulary(candidate: "Checkpoint", reference: "Checkpoint") -> None:
    """Refuse two checkpoints of other tokens: their numbers are about other things.

    Raises:
        CheckpointError: It names the first token that differs.
    """
    if candidate.tokenizer_hash == reference.tokenizer_hash:
        return
    ours, theirs = (
        {number: token for token, number in each.load_tokenizer().get_vocab().items()}
        for each in (candidate, reference)
    )
    for number in sorted(ours.keys() | theirs.keys()):
        if ours.get(number) != theirs.get(number):
            tokens = [repr(each[number]) if number in each else "none" for each in (ours, theirs)]
            raise CheckpointError(
                f"{candidate.reference} and {reference.reference} have other vocabularies: token "
                f"{number} is {tokens[0]} in the first and {tokens[1]} in the second; compare "
                "checkpoints of one tokenizer."
            )
