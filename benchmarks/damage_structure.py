"""Damage to what belongs where: layers, rows, heads, settings, tokens. Numbers are elsewhere."""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from damage_checkpoint import Stored, layer_of, renumbered
from damage_numbers import PLACES, damage, in_layers, place
from torch import Tensor


def own_layers(stored: Stored) -> bool:
    """Whether each layer has weights of its own."""
    return not stored.shares_layers


def rearranged(stored: Stored, order: Iterable[int]) -> Stored:
    """The layers in another order; some may come twice or not at all."""
    order = list(order)
    tensors = {name: t for name, t in stored.tensors.items() if layer_of(name) is None}
    for new, old in enumerate(order):
        for name, tensor in stored.tensors.items():
            if layer_of(name) == old:
                tensors[renumbered(name, new)] = tensor.clone()
    settings: dict[str, Any] = {"num_hidden_layers": len(order)}
    if "layer_types" in stored.config:
        settings["layer_types"] = [stored.config["layer_types"][old] for old in order]
    return replace(stored, tensors=tensors).having(**settings)


@damage("swapped layers", ("last two", "middle two", "first and last"), own_layers)
def swapped_layers(stored: Stored, which: str) -> Stored:
    """Two layers stand in each other's place."""
    n = stored.layers
    pairs = {"last two": (n - 2, n - 1), "middle two": (n // 2 - 1, n // 2)}
    one, other = pairs.get(which, (0, n - 1))
    order = list(range(n))
    order[one], order[other] = other, one
    return rearranged(stored, order)


@damage("repeated layer", PLACES, own_layers)
def repeated_layer(stored: Stored, where: str) -> Stored:
    """A layer comes twice, one after the other."""
    layer = place(stored, where)
    return rearranged(stored, [*range(layer + 1), *range(layer, stored.layers)])


@damage("dropped layer", PLACES, own_layers)
def dropped_layer(stored: Stored, where: str) -> Stored:
    """A layer is missing."""
    layer = place(stored, where)
    return rearranged(stored, [n for n in range(stored.layers) if n != layer])


@damage("wrong depth", (-1, 1, -4), lambda stored: stored.shares_layers)
def wrong_depth(stored: Stored, more: int) -> Stored:
    """The one layer is run more or fewer times."""
    return stored.having(num_hidden_layers=stored.config["num_hidden_layers"] + more)


# ---------------------------------------------------------------- rows


def with_rows(stored: Stored, rows: Mapping[int, int]) -> Stored:
    """Each named row of the embedding holds what another row held (the head, too, where tied)."""

    def change(table: Tensor) -> Tensor:
        found = table.clone()
        for new, old in rows.items():
            found[new] = table[old]
        return found

    return stored.changed(stored.names("words"), change)


def exchanged(tokens: Iterable[int]) -> dict[int, int]:
    """Every token in the place of its neighbour: 0 with 1, 2 with 3."""
    tokens = list(tokens)
    pairs = zip(tokens[::2], tokens[1::2], strict=False)
    return {new: old for one, other in pairs for new, old in ((one, other), (other, one))}


@damage("swapped rows", ("two rare", "two common", "eight common"))
def swapped_rows(stored: Stored, which: str) -> Stored:
    """Embeddings of tokens in each other's place."""
    known = stored.texts.frequent
    rare = known[len(known) * 3 // 4 :][:2]
    tokens = {"two rare": rare, "two common": known[:2], "eight common": known[:8]}[which]
    return with_rows(stored, exchanged(tokens))


@damage("shifted rows", (0.1, 0.5, 1.0))
def shifted_rows(stored: Stored, share: float) -> Stored:
    """The last rows of the embedding stand one too late."""
    n = int(stored.config["vocab_size"])
    return with_rows(stored, {row: row - 1 for row in range(n - int(share * (n - 1)), n)})


@damage("shifted positions", (1, 2, 8), lambda stored: bool(stored.names("positions")))
def shifted_positions(stored: Stored, by: int) -> Stored:
    """Learned positions stand too late."""
    return stored.changed(stored.names("positions"), lambda table: table.roll(by, 0))


# ---------------------------------------------------------------- parts that do nothing


@damage("zeroed heads", ("one", "one in each layer", "half"))
def zeroed_heads(stored: Stored, which: str) -> Stored:
    """Heads of the attention write nothing."""
    layers = [stored.layers // 2] if which == "one" else range(stored.layers)
    n = stored.heads // 2 if which == "half" else 1
    names = stored.names("attention writer", layers)

    def change(weight: Tensor) -> Tensor:
        found = weight.clone()
        found[:, : n * weight.shape[1] // stored.heads] = 0
        return found

    return stored.changed([name for name in names if name.endswith("weight")], change)


@damage("dead attention", PLACES)
def dead_attention(stored: Stored, where: str) -> Stored:
    """What a layer's attention writes is 0."""
    return stored.changed(
        stored.names("attention writer", [place(stored, where)]), torch.zeros_like
    )


@damage("dead MLP", PLACES)
def dead_mlp(stored: Stored, where: str) -> Stored:
    """What a layer's MLP writes is 0."""
    return stored.changed(stored.names("mlp writer", [place(stored, where)]), torch.zeros_like)


@damage(
    "missing biases",
    ("attention", "MLP", "both"),
    lambda stored: any(name.endswith("bias") for name in stored.names("mlp writer")),
)
def missing_biases(stored: Stored, which: str) -> Stored:
    """Biases of all dense layers of a kind are 0."""
    roles = {
        "attention": ("query", "key", "value", "attention writer"),
        "MLP": ("mlp reader", "mlp writer"),
    }
    wanted = roles.get(which, (*roles["attention"], *roles["MLP"]))
    names = [n for role in wanted for n in in_layers(stored, role) if n.endswith("bias")]
    return stored.changed(names, torch.zeros_like)


# ---------------------------------------------------------------- matrices that are others


@damage("transposed matrix", PLACES)
def transposed(stored: Stored, where: str) -> Stored:
    """The queries' square matrix of a layer, the wrong way round."""
    names = stored.names("query", [place(stored, where)])
    return stored.changed([name for name in names if name.endswith("weight")], torch.t)


@damage("swapped projections", PLACES)
def swapped_projections(stored: Stored, where: str) -> Stored:
    """Keys and values of a layer stand in each other's place."""
    layers = [place(stored, where)]
    pairs = list(zip(stored.names("key", layers), stored.names("value", layers), strict=True))
    tensors = dict(stored.tensors)
    for one, other in pairs:
        tensors[one], tensors[other] = stored.tensors[other].clone(), stored.tensors[one].clone()
    return replace(stored, tensors=tensors)


@damage("rotary layout", PLACES, lambda stored: stored.causal)
def rotary_layout(stored: Stored, where: str) -> Stored:
    """Queries and keys of a layer are ordered for neighbouring pairs, not for halves."""
    size = stored.config.get("head_dim") or stored.config["hidden_size"] // stored.heads

    def change(weight: Tensor) -> Tensor:
        halves = weight.reshape(-1, 2, size // 2, weight[0].numel())
        return halves.transpose(1, 2).reshape(weight.shape)

    layers = [place(stored, where)]
    return stored.changed([*stored.names("query", layers), *stored.names("key", layers)], change)


# ---------------------------------------------------------------- settings


def epsilon_of(stored: Stored) -> str:
    """The name of the setting."""
    return "rms_norm_eps" if "rms_norm_eps" in stored.config else "layer_norm_eps"


@damage("wrong epsilon", (1e-3, 1e-1, 1.0))
def wrong_epsilon(stored: Stored, value: float) -> Stored:
    """Of all norms."""
    return stored.having(**{epsilon_of(stored): value})


@damage("wrong rotary base", (0.5, 0.1, 10.0), lambda stored: stored.causal)
def wrong_rotary_base(stored: Stored, factor: float) -> Stored:
    """Times a factor."""
    rope = dict(stored.config.get("rope_parameters") or {})
    if "rope_theta" in rope:
        return stored.having(rope_parameters={**rope, "rope_theta": rope["rope_theta"] * factor})
    return stored.having(rope_theta=stored.config["rope_theta"] * factor)


@damage("wrong activation", ("silu", "relu", "tanh"))
def wrong_activation(stored: Stored, name: str) -> Stored:
    """Of the MLPs."""
    settings = [key for key in ("hidden_act", "hidden_activation") if key in stored.config]
    now = stored.config[settings[0]]
    return stored.having(**dict.fromkeys(settings, "gelu" if name == now else name))


# ---------------------------------------------------------------- tokens


@damage("wrong tokenizer", ("two", "eight", "all"))
def wrong_tokenizer(stored: Stored, which: str) -> Stored:
    """Tokens have each other's ids."""
    known = stored.texts.frequent
    swaps = exchanged({"two": known[:2], "eight": known[:8]}.get(which, known))
    tokenizer = copy.deepcopy(dict(stored.tokenizer))
    vocabulary = tokenizer["model"]["vocab"]
    tokenizer["model"]["vocab"] = {token: swaps.get(n, n) for token, n in vocabulary.items()}
    return replace(stored, tokenizer=tokenizer)


def has_template(stored: Stored) -> bool:
    """Whether the tokenizer puts special tokens round a text, by a template."""
    return bool((stored.tokenizer.get("post_processor") or {}).get("special_tokens"))


@damage("missing special tokens", ("end", "begin", "both"), has_template)
def missing_special_tokens(stored: Stored, which: str) -> Stored:
    """Texts do not begin or end with the tokens that the model knows."""
    tokenizer = copy.deepcopy(dict(stored.tokenizer))
    pieces = tokenizer["post_processor"]["single"]
    text = next(n for n, piece in enumerate(pieces) if "Sequence" in piece)
    kept = {"end": pieces[: text + 1], "begin": pieces[text:], "both": [pieces[text]]}[which]
    tokenizer["post_processor"]["single"] = kept
    return replace(stored, tokenizer=tokenizer)
