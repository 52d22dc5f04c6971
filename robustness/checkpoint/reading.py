"""How a reference is read: what a user allows and names beside it, and where it was found."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """What a user allows, and names, beside a reference.

    Attributes:
        allow_pickle: Whether pickled weights may be converted, where there are no others.
        base: Reference of the model that an adapter belongs to, if not what the adapter names.
        tokenizer: Reference of a tokenizer that takes the place of the checkpoint's own.
    """

    allow_pickle: bool = False
    base: str | None = None
    tokenizer: str | None = None

    @property
    def of_others(self) -> "ReadOptions":
        """For other checkpoints of the run: what is allowed holds for them, what is named not."""
        return ReadOptions(allow_pickle=self.allow_pickle)


PLAIN = ReadOptions()
"""Nothing beyond what is always allowed, and nothing named."""


@dataclass(frozen=True, kw_only=True)
class Located:
    """Where the files of a reference lie.

    Attributes:
        folder: Its files, or what they were converted to.
        revision: Where the source gives one: the Hub's commit, the hash of a GGUF file.
        notes: What a reader of the report should know.
        weights_hash: What identifies the weights, if not the content of the folder's files.
    """

    folder: Path
    revision: str | None = None
    notes: tuple[str, ...] = ()
    weights_hash: str | None = None
