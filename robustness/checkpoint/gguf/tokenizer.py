"""The tokenizer that a GGUF file describes by its keys ``tokenizer.ggml.*``.

It makes the tokens that llama.cpp makes of a text whose special tokens are parsed. What cannot be
rebuilt exactly is refused by naming it: a key, a kind, a pre-tokenizer.
"""

from __future__ import annotations

import functools
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import Field, ValidationError, model_validator

from robustness.checkpoint.loading import loading_errors
from robustness.checkpoint.tokenization import AS_SAVED
from robustness.store.documents import StrictTable, first_fault

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tokenizers import AddedToken, Tokenizer

_PREFIX = "tokenizer.ggml."
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4  # ggml's types of tokens
_SPECIAL = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "sep_token": "seperator_token_id",  # as ggml spells it
    "pad_token": "padding_token_id",
    "cls_token": "cls_token_id",
    "mask_token": "mask_token_id",
}
_WITHOUT_EFFECT = {  # on the tokens of a text
    "add_sep_token",  # between two texts
    "suppress_tokens",  # in what is generated
    *(f"{name}_token_id" for name in ("eot", "eom", "prefix", "suffix", "middle")),
    *(f"fim_{name}_token_id" for name in ("pre", "suf", "mid", "pad", "rep", "sep")),
}
_STRIPPING = ("phi-3", "phi3")  # models whose special tokens swallow the white space behind them
_NOT_STRIPPING = ("<unk>", "<s>", "<|endoftext|>")  # of these models' special tokens

_Id: TypeAlias = Annotated[int, Field(ge=0)] | None


class _Keys(StrictTable):
    """The keys that decide the tokens of a text, with llama.cpp's defaults."""

    model: Literal["gpt2", "gemma4", "llama"]
    pre: str
    tokens: Annotated[list[str], Field(min_length=1)]
    token_type: list[int]
    scores: list[Annotated[float, Field(allow_inf_nan=False)]]
    merges: list[str]
    bos_token_id: _Id = None
    eos_token_id: _Id = None
    unknown_token_id: _Id = None
    seperator_token_id: _Id = None
    padding_token_id: _Id = None
    cls_token_id: _Id = None
    mask_token_id: _Id = None
    add_bos_token: bool
    add_eos_token: bool = False
    add_space_prefix: bool
    remove_extra_whitespaces: Literal[False] = False

    @model_validator(mode="before")
    @classmethod
    def _with_defaults(cls, given: dict[str, Any]) -> dict[str, Any]:
        if unknown := sorted(given.keys() - cls.model_fields.keys()):
            raise ValueError(f"nothing is known of the key {_PREFIX}{unknown[0]}")
        n = len(given["tokens"]) if isinstance(given.get("tokens"), list) else 0
        values = {"token_type": [_NORMAL] * n, "add_space_prefix": False}
        values["add_bos_token"] = given.get("pre") in _table()["add_bos"]
        if given.get("model") == "llama":  # merges by scores, whatever the file lists beside them
            values |= {"bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0}
            values |= {"pre": "default", "add_bos_token": True, "add_space_prefix": True}
            return values | given | {"merges": []}
        if given.get("model") == "gemma4":
            given = given | {"pre": "gemma4", "add_bos_token": True}
        return values | given | {"scores": [0.0] * n}

    @model_validator(mode="after")
    def _verified(self) -> _Keys:
        n = len(self.tokens)
        if self.pre not in pre_tokenizers():
            raise ValueError(f"its pre-tokenizer {self.pre!r} ({_PREFIX}pre) is unknown")
        if len(set(self.tokens)) < n:
            raise ValueError(f"a token stands twice in {_PREFIX}tokens")
        for name in ("token_type", "scores"):
            if len(getattr(self, name)) != n:
                raise ValueError(f"{_PREFIX}{name} does not say one thing of each of {n} tokens")
        for name in _SPECIAL.values():
            if (number := getattr(self, name)) is not None and number >= n:
                raise ValueError(f"{_PREFIX}{name} is {number}, there are {n} tokens")
        for name in ("bos", "eos"):
            if getattr(self, f"add_{name}_token") and getattr(self, f"{name}_token_id") is None:
                raise ValueError(f"{_PREFIX}{name}_token_id is missing")
        if self.add_space_prefix and self.model != "llama":
            raise ValueError(f"{_PREFIX}add_space_prefix is not for the kind {self.model}")
        return self


def gguf_tokenizer(metadata: Mapping[str, Any], *, what: str) -> Any:
    """The tokenizer as an object of transformers, which saves it as it is.

    Args:
        metadata: The values of the file's keys.
        what: The file, for messages.

    Raises:
        CheckpointError: A key is unknown, missing, of the wrong type or does not fit the others,
            or it asks for what cannot be rebuilt.
    """
    from transformers import PreTrainedTokenizerFast

    given = {
        key.removeprefix(_PREFIX): value
        for key, value in metadata.items()
        if key.startswith(_PREFIX) and key.removeprefix(_PREFIX) not in _WITHOUT_EFFECT
    }
    advice = (
        "give the folder of safetensors that it was made from, or name a tokenizer with "
        "--robustness-tokenizer=REF (of 'trace': --tokenizer)"
    )
    with loading_errors(f"The tokenizer of {what}", advice=advice):
        try:
            keys = _Keys.model_validate(given)
        except ValidationError as error:
            key = _PREFIX if error.errors()[0]["loc"] else ""
            raise ValueError(key + first_fault(error)) from None
        tokenizer = _by_scores(keys) if keys.model == "llama" else _by_merges(keys)
        special = _special_tokens(keys)
        tokenizer.add_tokens(_added_tokens(keys, special, str(metadata.get("general.name"))))
        _surround(tokenizer, keys)
        fast: Any = PreTrainedTokenizerFast  # partly untyped
        return fast(tokenizer_object=tokenizer, **{AS_SAVED: True}, **special)


def _by_merges(keys: _Keys) -> Tokenizer:
    """Byte-pair encoding, of GPT-2's letters for bytes or of Unicode as in Gemma 4."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers
    from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split

    raw = keys.pre in _table()["raw"]
    places = [merge.find(" ", 1) for merge in keys.merges]  # a space can be part of the first
    if -1 in places:
        raise ValueError(f"{_PREFIX}merges has {keys.merges[places.index(-1)]!r}, which is no pair")
    merges = [(pair[:at], pair[at + 1 :]) for pair, at in zip(keys.merges, places, strict=True)]
    tokenizer = Tokenizer(
        models.BPE(
            vocab=_vocabulary(keys),
            merges=list(dict.fromkeys(merges)),
            ignore_merges=keys.pre in _table()["ignore_merges"],
            byte_fallback=raw,
        )
    )
    splits = next(rule["splits"] for rule in _table()["rules"] if keys.pre in rule["names"])
    steps: list[Any] = [Split(Regex(split), "isolated") for split in splits]
    if raw:
        tokenizer.normalizer = normalizers.Replace(" ", "▁")
        tokenizer.decoder = _spelt_out()
    else:
        steps.append(ByteLevel(add_prefix_space=False, use_regex=False))
        tokenizer.decoder = decoders.ByteLevel()
    tokenizer.pre_tokenizer = Sequence(steps)
    return tokenizer


def _by_scores(keys: _Keys) -> Tokenizer:
    """SentencePiece's byte-pair encoding: of two neighbours that make a token, the best first."""
    from tokenizers import Tokenizer, models, normalizers

    pieces = {
        token: score
        for token, score, kind in zip(keys.tokens, keys.scores, keys.token_type, strict=True)
        if kind == _NORMAL
    }
    merges = [
        (token[:at], token[at:])
        for token in sorted(pieces, key=lambda token: -pieces[token])
        for at in range(1, len(token))
        if token[:at] in pieces and token[at:] in pieces
    ]
    tokenizer = Tokenizer(
        models.BPE(
            vocab=_vocabulary(keys),
            merges=merges,
            unk_token=keys.tokens[keys.unknown_token_id or 0],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    prefix = [normalizers.Prepend("▁")] if keys.add_space_prefix else []
    tokenizer.normalizer = normalizers.Sequence([*prefix, normalizers.Replace(" ", "▁")])
    tokenizer.decoder = _spelt_out(strip=keys.add_space_prefix)
    return tokenizer


def _vocabulary(keys: _Keys) -> dict[str, int]:
    return {token or f"[EMPTY_{number}]": number for number, token in enumerate(keys.tokens)}


def _spelt_out(*, strip: bool = False) -> Any:
    """From pieces to text, without the space that was put first."""
    from tokenizers import decoders

    steps: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    return decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if strip else steps)


def _special_tokens(keys: _Keys) -> dict[str, str]:
    """Tokens by what transformers calls their task, but for a word that any text can hold."""
    words = {merge.replace(" ", "") for merge in keys.merges}
    special = {}
    for name, key in _SPECIAL.items():
        if (number := getattr(keys, key)) is not None:
            token = keys.tokens[number]
            if keys.token_type[number] != _NORMAL or (len(token) > 1 and token not in words):
                special[name] = token
    return special


def _added_tokens(keys: _Keys, special: Mapping[str, str], model: str) -> list[AddedToken]:
    """The tokens that are found in a text before anything else is done to it."""
    from tokenizers import AddedToken

    stripping = any(name in model.lower() for name in _STRIPPING)
    return [
        AddedToken(
            token,
            normalized=False,
            special=kind != _USER_DEFINED,
            rstrip=stripping and token not in _NOT_STRIPPING,
        )
        for token, kind in zip(keys.tokens, keys.token_type, strict=True)
        if kind in (_UNKNOWN, _CONTROL, _USER_DEFINED) or token in special.values()
    ]


def _surround(tokenizer: Tokenizer, keys: _Keys) -> None:
    """Tokens that stand around every text."""
    from tokenizers import processors

    bos = [("bos", keys.bos_token_id)] if keys.add_bos_token else []
    eos = [("eos", keys.eos_token_id)] if keys.add_eos_token else []
    before, after = [name for name, _ in bos], [name for name, _ in eos]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[*before, "$A", *after],
        pair=[*before, "$A", *after, *(f"{name}:1" for name in before), "$B:1", *after],
        special_tokens=[
            {"id": name, "ids": [number], "tokens": [keys.tokens[number]]}
            for name, number in [*bos, *eos]
            if number is not None
        ],
    )


def pre_tokenizers() -> dict[str, bool]:
    """The names of all that are known, and whether they cut text instead of letters for bytes."""
    names = [name for rule in _table()["rules"] for name in rule["names"]]
    return {name: name in _table()["raw"] for name in names}


@functools.cache
def _table() -> dict[str, Any]:
    """How text is cut before merges apply, by the names of pre-tokenizers."""
    file = Path(__file__).with_name("pre_tokenizers.toml")
    return tomllib.loads(file.read_text(encoding="utf-8"))
