"""The tokenizer of a checkpoint folder: which files it is, loading it, and whether it fits."""

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

from robustness.checkpoint.architecture import Scoring
from robustness.checkpoint.loading import loading_errors, quiet
from robustness.errors import CheckpointError
from robustness.runtime.libraries import load_libraries

TOKENIZER_FILES = (
    "tokenizer*.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*.json",
    "vocab*.txt",
    "merges*.txt",
    "*.model",  # SentencePiece
    "*.tiktoken",
    "tekken*.json",
    "*.codes",  # fastBPE
)
AS_SAVED = "as_saved"
"""In tokenizer_config.json: load exactly what tokenizer.json says. For some types of model
transformers builds a tokenizer of its own from the vocabulary instead."""
SAVE_AGAIN = "save it again with tokenizer.save_pretrained()"
_PROBE = "the 3 tests of a tokenizer: words, more or less."
_SENTINEL = re.compile(r"▁?<extra_id_(\d+)>")
_MAX_FILE_BYTES = 200_000_000  # the largest vocabularies, of 10^6 tokens, take a fifth of it


def tokenizer_files(folder: Path) -> tuple[Path, ...]:
    """The files of a folder that decide how text is tokenized, by name.

    Raises:
        CheckpointError: There are none, or one has a size that no tokenizer needs.
    """
    files = {path for pattern in TOKENIZER_FILES for path in folder.glob(pattern) if path.is_file()}
    if not files:
        raise CheckpointError(
            f"{folder} has no tokenizer: save it beside the weights with "
            "tokenizer.save_pretrained()."
        )
    for file in sorted(files):
        if file.stat().st_size > _MAX_FILE_BYTES:
            raise CheckpointError(
                f"{file} has {file.stat().st_size} bytes, which no tokenizer needs: it is damaged "
                "or no tokenizer."
            )
    return tuple(sorted(files))


def load_tokenizer(folder: Path, *, what: str) -> Any:
    """Load a folder's tokenizer; never downloads, never runs code of the checkpoint.

    Raises:
        CheckpointError: It is missing or damaged.
    """
    load_libraries()
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    tokenizer_files(folder)
    model = _sentencepiece_model(folder)
    if model is not None and importlib.util.find_spec("sentencepiece") is None:
        raise CheckpointError(
            f"The tokenizer of {what} is a SentencePiece model ({model.name}) without "
            "tokenizer.json, and reading it needs a package: "
            "pip install 'pytest-robustness[sentencepiece]'."
        )
    with loading_errors(f"The tokenizer of {what}", advice=SAVE_AGAIN), quiet():
        config = folder / "tokenizer_config.json"
        as_saved = config.is_file() and AS_SAVED in json.loads(config.read_text("utf-8"))
        loader: Any = PreTrainedTokenizerFast if as_saved else AutoTokenizer
        tokenizer = loader.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        if model is not None:
            _require_same_pieces(tokenizer, model, what)
    return tokenizer


def _sentencepiece_model(folder: Path) -> Path | None:
    """The file that the tokenizer is made from, where that is SentencePiece's."""
    if (folder / "tokenizer.json").is_file():
        return None
    for file in sorted(folder.glob("*.model")):
        with file.open("rb") as stream:
            if stream.read(1) == b"\n":  # its list of pieces; other formats of that name are text
                return file
    return None


def _require_same_pieces(tokenizer: Any, model: Path, what: str) -> None:
    """Refuse a tokenizer that transformers makes of a model without cutting text as it does."""
    from sentencepiece import SentencePieceProcessor

    reader = SentencePieceProcessor(model_file=str(model))
    ids: list[int] = reader.encode(_PROBE)
    expected = [reader.id_to_piece(number) for number in ids if not reader.is_unknown(number)]
    made = tokenizer(_PROBE, add_special_tokens=False)["input_ids"]
    found = tokenizer.convert_ids_to_tokens([n for n in made if n != tokenizer.unk_token_id])
    if found != expected:
        raise CheckpointError(
            f"The tokenizer of {what} does not cut text as its SentencePiece model {model.name} "
            f"does: set tokenizer_class in tokenizer_config.json, or {SAVE_AGAIN}."
        )


def verify_tokenizer(tokenizer: Any, *, rows: int, scoring: Scoring, what: str) -> None:
    """Refuse a tokenizer that cannot belong to the model.

    Args:
        tokenizer: The loaded tokenizer.
        rows: Rows of the model's token embedding.
        scoring: A masked language model needs a mask token, a sequence-to-sequence model that or
            sentinel tokens.
        what: The checkpoint's reference.

    Raises:
        CheckpointError: It knows ids the embedding has no row for, has no vocabulary, or lacks
            the tokens that the model is scored with.
    """
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    if set(vocabulary) <= set(tokenizer.all_special_tokens):
        # transformers builds a tokenizer of special tokens alone when the vocabulary is missing.
        raise CheckpointError(
            f"The tokenizer of {what} has no vocabulary: its vocabulary file is missing; save it "
            "again with tokenizer.save_pretrained()."
        )
    with loading_errors(f"The tokenizer of {what}", advice=SAVE_AGAIN), quiet():
        around: list[int] = tokenizer("a", add_special_tokens=True)["input_ids"]
    highest = max(*vocabulary.values(), *around)
    if highest >= rows:
        raise CheckpointError(
            f"The tokenizer does not fit {what}: it knows ids up to {highest}, the embedding has "
            f"{rows} rows; give the tokenizer that the model was trained with."
        )
    if scoring == "masked" and tokenizer.mask_token_id is None:
        raise CheckpointError(
            f"The tokenizer of {what} has no mask token, which a masked language model is scored "
            "with: set mask_token in tokenizer_config.json."
        )
    if scoring == "seq2seq" and tokenizer.mask_token_id is None and not sentinels(tokenizer):
        raise CheckpointError(
            f"The tokenizer of {what} has neither sentinel tokens (<extra_id_0> …) nor a mask "
            "token, so it does not show how the model's input was corrupted in training: give the "
            "pre-trained checkpoint that it was made from, or set mask_token in "
            "tokenizer_config.json."
        )


def sentinels(tokenizer: Any) -> list[int]:
    """Ids of a tokenizer's sentinel tokens in the order in which they stand for spans."""
    ids_by_place = {}
    for token, number in tokenizer.get_vocab().items():
        if match := _SENTINEL.fullmatch(token):
            ids_by_place[int(match[1])] = number
    return [ids_by_place[place] for place in sorted(ids_by_place)]
