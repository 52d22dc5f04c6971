"""The masked language model that replaces a discriminator's tokens."""

from pathlib import Path
from typing import TYPE_CHECKING

from robustness.errors import PolicyError
from robustness.scoring.options import UNIGRAM

if TYPE_CHECKING:
    from robustness.checkpoint.checkpoint import Checkpoint


def chosen_generator(
    reference: str, checkpoint: "Checkpoint", *, store_root: Path
) -> "Checkpoint | None":
    """The generator that a policy names; ``None`` where tokens are drawn by their frequency.

    Args:
        reference: the policy's ``generator``.
        checkpoint: the discriminator.
        store_root: folder of the store.

    Raises:
        PolicyError: if it is no masked language model, or has another vocabulary.
        CheckpointError: if there is no such checkpoint.
    """
    if reference == UNIGRAM:
        return None
    from robustness.checkpoint.checkpoint import resolve

    found = resolve(reference, cache=store_root)
    if (found.scoring, found.vocab_size) != ("masked", checkpoint.vocab_size):
        raise PolicyError(
            f"generator {reference!r} is scored {found.scoring} and has {found.vocab_size} "
            f"tokens: name a masked language model with the {checkpoint.vocab_size} tokens of "
            f"{checkpoint.label}"
        )
    return found
