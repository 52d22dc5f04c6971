"""Changes that must not be called damage: other files, other dtypes, other weights of one function.

A few change the numbers a little; that they are harmless is measured as damage is.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from between import rounded
from damage_checkpoint import Stored
from damage_numbers import gguf_type, in_layers, noise, random
from damage_structure import epsilon_of
from damage_trained import trained
from torch import Tensor

Change = Callable[[Stored], Stored]


class Variant(NamedTuple):
    """A checkpoint that is as good as the one it was made from.

    Attributes:
        name: what was done.
        change: makes it.
        exact: whether outputs are the same but for rounding errors of float32.
        applies: whether it can be made of a checkpoint.
        training: whether it is another model on purpose.
    """

    name: str
    change: Change
    exact: bool = True
    applies: Callable[[Stored], bool] = lambda _: True
    training: bool = False


def masked(stored: Stored) -> bool:
    """Whether it fills in masks."""
    return not stored.causal


# ---------------------------------------------------------------- files


def cast(dtype: torch.dtype) -> Change:
    """All tensors in another dtype."""
    name = str(dtype).removeprefix("torch.")
    return lambda stored: stored.changed(stored.tensors, lambda t: t.to(dtype)).having(dtype=name)


def written(**how: Any) -> Change:
    """The same numbers in other files."""
    return lambda stored: replace(stored, **how)


def renamed(change: Callable[[str], str]) -> Change:
    """Tensors under other names."""
    return lambda stored: replace(
        stored, tensors={change(name): tensor for name, tensor in stored.tensors.items()}
    )


def old_norm_names(name: str) -> str:
    """As checkpoints of TensorFlow call them."""
    return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
        "LayerNorm.bias", "LayerNorm.beta"
    )


def without_prefix(name: str) -> str:
    """As a model without a head calls them, which transformers takes, too."""
    return re.sub(r"^(bert|roberta|albert|model)\.", "", name)


def reversed_order(stored: Stored) -> Stored:
    """Tensors and tokens in another order in their files."""
    vocabulary = dict(reversed(stored.tokenizer["model"]["vocab"].items()))
    model = {**stored.tokenizer["model"], "vocab": vocabulary}
    return replace(
        stored,
        tensors=dict(reversed(list(stored.tensors.items()))),
        tokenizer={**stored.tokenizer, "model": model},
    )


def stored_head(stored: Stored) -> Stored:
    """The tied head is in the file, too."""
    head = "lm_head.weight" if stored.causal else "lm_head.decoder.weight"
    (words,) = stored.names("words")
    return replace(stored, tensors={**stored.tensors, head: stored.tensors[words].clone()})


def settings(**values: Any) -> Change:
    """Settings of ``config.json`` that nothing reads when a model is only run."""
    return lambda stored: stored.having(**values)


# ---------------------------------------------------------------- the same function


def reordered(tensor: Tensor, *, order: Tensor, axis: int, size: int) -> Tensor:
    """Slices of a size along an axis in another order."""
    shape = tensor.shape
    parts = tensor.reshape(*shape[:axis], -1, size, *shape[axis + 1 :])
    return parts.index_select(axis, order).reshape(shape)


def permuted(stored: Stored, *, heads: bool, neurons: bool, seed: int = 0) -> Stored:
    """Heads or neurons of every layer in another order, in all matrices that know of it."""
    generator = random(replace(stored, seed=seed))
    found = stored
    for layer in range(stored.layers):
        for wanted, readers, writer in (
            (heads, ("query", "key", "value"), "attention writer"),
            (neurons, ("mlp reader",), "mlp writer"),
        ):
            weights = [n for n in stored.names(writer, [layer]) if n.endswith("weight")]
            width = stored.tensors[weights[0]].shape[1]
            size = width // stored.heads if readers[0] == "query" else 1
            order = torch.randperm(width // size, generator=generator)
            if wanted:
                into = [name for role in readers for name in stored.names(role, [layer])]
                found = found.changed(into, partial(reordered, order=order, axis=0, size=size))
                found = found.changed(weights, partial(reordered, order=order, axis=1, size=size))
    return found


def one_key_a_head(stored: Stored) -> bool:
    """Whether keys and values are not shared between heads."""
    return bool(stored.config.get("num_key_value_heads", stored.heads) == stored.heads)


def orthogonal(size: int, generator: torch.Generator) -> Tensor:
    """A random rotation."""
    random_square = torch.randn(size, size, generator=generator, dtype=torch.float64)
    q: Tensor = torch.linalg.qr(random_square)[0]
    return q


def turned(tensor: Tensor, turns: Tensor) -> Tensor:
    """The rows of every head in another basis; ``turns`` is (heads, size, size)."""
    rows = tensor.double().reshape(*turns.shape[:2], -1)  # (heads, size, in)
    return (turns @ rows).reshape(tensor.shape).float()


def turned_in_columns(tensor: Tensor, turns: Tensor) -> Tensor:
    """The columns of every head."""
    return turned(tensor.t(), turns).t()


def rotated(stored: Stored, into: tuple[str, ...], writer: str | None) -> Stored:
    """Another basis within every head: of queries and keys, or of values and what reads them."""
    generator, found = random(stored), stored
    for layer in range(stored.layers):
        (example,) = [n for n in stored.names(into[0], [layer]) if n.endswith("weight")]
        size = stored.tensors[example].shape[0] // stored.heads
        turns = torch.stack([orthogonal(size, generator) for _ in range(stored.heads)])

        turn = partial(turned, turns=turns)
        found = found.changed([n for role in into for n in stored.names(role, [layer])], turn)
        if writer:
            names = [n for n in stored.names(writer, [layer]) if n.endswith("weight")]
            found = found.changed(names, partial(turned_in_columns, turns=turns))
    return found


def scaled(one: str, other: str, factor: float) -> Change:
    """What one part is multiplied by, the other is divided by."""

    def change(stored: Stored) -> Stored:
        up = stored.changed(in_layers(stored, one), lambda t: t * factor)
        weights = [n for n in in_layers(stored, other) if n.endswith("weight") or one == "query"]
        return up.changed(weights, lambda t: t / factor)

    return change


def larger_epsilon(stored: Stored) -> Stored:
    """By a tenth."""
    name = epsilon_of(stored)
    return stored.having(**{name: stored.config[name] * 1.1})


def other_key_bias(stored: Stored) -> Stored:
    """A constant in all keys of a head moves all scores of a query alike."""
    names = [name for name in in_layers(stored, "key") if name.endswith("bias")]
    return stored.changed(names, torch.zeros_like)


def unused_rows(stored: Stored) -> Stored:
    """Positions beyond the texts hold noise."""

    def change(table: Tensor) -> Tensor:
        found = table.clone()
        found[1 if len(table) < 200 else 256 :][128:] += 1
        return found

    return stored.changed(stored.names("positions"), change)


# ---------------------------------------------------------------- other numbers


def one_ulp(seed: int) -> Change:
    """Every weight is moved to a neighbour, up or down."""

    def change(stored: Stored) -> Stored:
        generator = torch.Generator().manual_seed(seed)

        def moved(tensor: Tensor) -> Tensor:
            up = torch.randint(0, 2, tensor.shape, generator=generator) * 2.0 - 1
            return torch.nextafter(tensor, up * torch.inf)

        return stored.changed(stored.tensors, moved)

    return change


def in_bits(bits: int) -> Change:
    """Dense weights as integers, one scale per channel."""
    return lambda stored: stored.changed(stored.matrices(), lambda weight: rounded(weight, bits))


def more_training(steps: int, seed: int) -> Change:
    """On the text that the gate sees, at a tenth of the usual rate."""
    return lambda stored: trained(replace(stored, seed=seed), stored.texts.here, steps, rate=0.1)


def chained(*changes: Change) -> Change:
    """One after the other."""

    def change(stored: Stored) -> Stored:
        for each in changes:
            stored = each(stored)
        return stored

    return change


def heads(seed: int) -> Change:
    """Attention heads in another order."""
    return lambda stored: permuted(stored, heads=True, neurons=False, seed=seed)


def neurons(seed: int) -> Change:
    """Neurons of the MLPs in another order."""
    return lambda stored: permuted(stored, heads=False, neurons=True, seed=seed)


def has(role: str, end: str = "") -> Callable[[Stored], bool]:
    """Whether a checkpoint has such tensors."""
    return lambda stored: any(name.endswith(end) for name in stored.names(role))


gated = has("mlp multiplier")


half, brain = cast(torch.float16), cast(torch.bfloat16)

VARIANTS: tuple[Variant, ...] = (
    Variant("copy", lambda stored: stored),
    Variant("float16", half, exact=False),
    Variant("bfloat16", brain, exact=False),
    Variant("shards of 300 kB", written(shard_size="300KB"), applies=masked),
    Variant("shards of 1 MB", written(shard_size="1MB"), applies=masked),
    Variant("shards of 100 MB", written(shard_size="100MB")),
    Variant("float16 in shards", chained(half, written(shard_size="1MB")), False, masked),
    Variant("bfloat16 in shards", chained(brain, written(shard_size="1MB")), False, masked),
    Variant("order in files", reversed_order),
    Variant("JSON without line breaks", written(indent=None)),
    Variant("base prefix dropped", renamed(without_prefix)),
    Variant("base prefix dropped, float16", chained(half, renamed(without_prefix)), exact=False),
    Variant("gamma and beta", renamed(old_norm_names), applies=masked),
    Variant("gamma and beta, bfloat16", chained(brain, renamed(old_norm_names)), False, masked),
    Variant("head stored", stored_head, applies=lambda s: s.causal or "lm_head.bias" in s.tensors),
    Variant("other dropout", settings(hidden_dropout_prob=0.3), applies=masked),
    Variant("attention dropout", settings(attention_probs_dropout_prob=0.0), applies=masked),
    Variant("other version", settings(transformers_version="4.40.0")),
    Variant("no cache", settings(use_cache=False)),
    Variant("initialiser", settings(initializer_range=0.01)),
    Variant("heads permuted, 1", heads(1), applies=one_key_a_head),
    Variant("heads permuted, 2", heads(2), applies=one_key_a_head),
    Variant("neurons permuted, 1", neurons(1)),
    Variant("neurons permuted, 2", neurons(2)),
    Variant("heads and neurons permuted", chained(heads(3), neurons(4)), True, one_key_a_head),
    Variant("permuted, in float16", chained(heads(5), neurons(6), half), False, one_key_a_head),
    Variant("queries and keys rotated", lambda s: rotated(s, ("query", "key"), None), True, masked),
    Variant("values rotated", lambda s: rotated(s, ("value",), "attention writer"), True, masked),
    Variant("queries doubled, keys halved", scaled("query", "key", 2.0)),
    Variant("values doubled, writers halved", scaled("value", "attention writer", 2.0)),
    Variant("values negated, writers too", scaled("value", "attention writer", -1.0)),
    Variant("values times 3, writers by 3", scaled("value", "attention writer", 3.0)),
    Variant("MLP doubled", scaled("mlp multiplier", "mlp writer", 2.0), True, gated),
    Variant("key biases zeroed", other_key_bias, applies=has("key", "bias")),
    Variant("positions beyond the text", unused_rows, applies=has("positions")),
    Variant("one ULP, 1", one_ulp(1)),
    Variant("one ULP, 2", one_ulp(2)),
    Variant("one ULP, 3", one_ulp(3)),
    Variant("noise of 0.01 %", lambda stored: noise(stored, 1e-4), exact=False),
    Variant("noise of 0.1 %", lambda stored: noise(stored, 1e-3), exact=False),
    Variant("epsilon a little larger", larger_epsilon, exact=False),
    Variant("16 bits per channel", in_bits(16), exact=False),
    Variant("12 bits per channel", in_bits(12), exact=False),
    Variant("10 bits per channel", in_bits(10), exact=False),
    Variant("int8 per channel", in_bits(8), exact=False),
    Variant("int8 per channel, float16", chained(in_bits(8), half), exact=False),
    Variant("int8 per channel, permuted", chained(in_bits(8), neurons(7)), exact=False),
    Variant("Q8_0", lambda stored: gguf_type(stored, "Q8_0"), exact=False),
    Variant("5 steps more, 1", more_training(5, 1), False, training=True),
    Variant("5 steps more, 2", more_training(5, 2), False, training=True),
    Variant("20 steps more, 1", more_training(20, 1), False, training=True),
    Variant("20 steps more, 2", more_training(20, 2), False, training=True),
    Variant("50 steps more, 1", more_training(50, 1), False, training=True),
    Variant("50 steps more, 2", more_training(50, 2), False, training=True),
)  # fmt: skip
"""All of them; on a masked model at least forty apply."""


def variants(stored: Stored) -> Iterator[Variant]:
    """Those that can be made of a checkpoint."""
    return (variant for variant in VARIANTS if variant.applies(stored))
