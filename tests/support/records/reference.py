"""The measurement protocol as a plain loop, written from ``docs/PROTOCOL.md`` alone.

This script shares no code with the package. It exists so that the package's numbers can be checked
against something short: one text block per forward pass, no padding, no batches, log-softmax in
float64 over all logits, and ablation by overwriting the parameters of the loaded model. Names of
architectures are allowed here; speed is no aim.

    python reference.py --model FOLDER --corpus reactions.csv:rxn --layout lines
    python reference.py --model MODEL.gguf --corpus text.txt --layout packed --limit-blocks 64
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import math
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import transformers

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Layout = Literal["packed", "lines"]
Kind = Literal["masked", "causal"]

MIN_TOKENS_PER_DRAW = 64
FIXED_DRAWS = (0, 1, 2)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A loaded model with its tokenizer; ``kind`` says how it is scored."""

    model: Any
    tokenizer: Any
    kind: Kind


@dataclass(frozen=True, kw_only=True)
class TextBlock:
    """Tokens of one text block, special ones included, and which of them are special."""

    number: int
    ids: list[int]
    special: list[bool]


@dataclass(frozen=True, kw_only=True)
class Site:
    """Where one layer's features are written: its scale per dimension, and the tensors to zero."""

    scale: torch.Tensor  # (D,) float64
    bias: torch.Tensor | None  # (D,) float64
    parameters: list[torch.nn.Parameter]  # dimension 0 of each is the feature


@dataclass(frozen=True, kw_only=True)
class Outlier:
    """A dimension with the layers that flag it, and z per layer for scale and bias (all layers)."""

    dim: int
    layers: list[int]
    scale_z: list[float]
    bias_z: list[float] | None


@dataclass(frozen=True, kw_only=True)
class Draw:
    """One random draw of the control over the text blocks (places in the order) it was used on."""

    number: int
    dims: list[int]
    places: list[int]
    delta_nll: float
    tokens: int
    complete: bool

    @property
    def log_degradation(self) -> float:
        return self.delta_nll / self.tokens


# ---------------------------------------------------------------------------------------------
# Checkpoints


def load(path: Path) -> Checkpoint:
    """Load a folder as a masked language model, a ``.gguf`` file as a causal one."""
    if path.suffix == ".gguf":
        tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        model: Any = transformers.AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=torch.float32
        )
        return Checkpoint(model=model.eval(), tokenizer=tokenizer, kind="causal")
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    model = transformers.AutoModelForMaskedLM.from_pretrained(path, dtype=torch.float32)
    return Checkpoint(model=model.eval(), tokenizer=tokenizer, kind="masked")


def sites(model: Any) -> list[Site]:
    """One site per executed layer."""
    family = model.config.model_type
    if family == "llama":
        return [_dense_site(layer.mlp.down_proj) for layer in model.model.layers]
    if family in {"bert", "roberta"}:
        encoder = getattr(model, family).encoder
        return [_norm_site(layer.output.LayerNorm) for layer in encoder.layer]
    if family == "albert":
        shared = model.albert.encoder.albert_layer_groups[0].albert_layers[0]
        return [_norm_site(shared.full_layer_layer_norm)] * model.config.num_hidden_layers
    raise ValueError(f"no site is known for {family}")


def _norm_site(norm: Any) -> Site:
    return Site(
        scale=norm.weight.detach().double(),
        bias=norm.bias.detach().double(),
        parameters=[norm.weight, norm.bias],
    )


def _dense_site(dense: Any) -> Site:
    rows = dense.weight.detach().double()  # (D, D_mlp)
    bias = None if dense.bias is None else dense.bias.detach().double()
    parameters = [dense.weight] if dense.bias is None else [dense.weight, dense.bias]
    return Site(scale=rows.square().sum(dim=1).sqrt(), bias=bias, parameters=parameters)


# ---------------------------------------------------------------------------------------------
# Corpus


def read_lines_csv(path: Path, column: str) -> list[str]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row[column] for row in csv.DictReader(file)]
    return [row.strip() for row in rows if row.strip()]


def read_fasta(path: Path) -> list[str]:
    sequences: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith(">"):
            sequences.append("")
        elif sequences:
            sequences[-1] += line.strip()
    return [sequence for sequence in sequences if sequence]


def read_text(path: Path) -> str:
    """Running text: a file, or the ``.txt`` files of a folder in the order of their names."""
    files = sorted(path.glob("*.txt")) if path.is_dir() else [path]
    texts = [file.read_bytes().decode("utf-8").replace("\r\n", "\n") for file in files]
    return "\n".join(texts)


def read_corpus(corpus: str, layout: Layout) -> list[str]:
    """``PATH`` or ``PATH:column``, as a list of texts; a packed corpus is one text."""
    name, _, column = corpus.partition(":")
    path = Path(name)
    if layout == "packed":
        return [read_text(path)]
    if column:
        return read_lines_csv(path, column)
    if path.suffix in {".fa", ".fasta"}:
        return read_fasta(path)
    return [line.strip() for line in read_text(path).split("\n") if line.strip()]


def fingerprint(texts: Sequence[str], layout: Layout) -> str:
    digest = hashlib.sha256(f"{layout}\n".encode())
    for text in texts:
        encoded = text.encode("utf-8")
        digest.update(f"{len(encoded)}\n".encode())
        digest.update(encoded)
        digest.update(b"\n")
    return digest.hexdigest()


def surrounding_tokens(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The special tokens that the tokenizer puts before and behind a single text."""
    inner = tokenizer("C", add_special_tokens=False)["input_ids"]
    whole = tokenizer("C")["input_ids"]
    for start in range(len(whole) - len(inner) + 1):
        if whole[start : start + len(inner)] == inner:
            return whole[:start], whole[start + len(inner) :]
    raise ValueError("the special tokens do not surround the text")


def text_blocks(
    texts: Sequence[str], layout: Layout, tokenizer: Any, block_size: int
) -> list[TextBlock]:
    prefix, suffix = surrounding_tokens(tokenizer)
    inside = block_size - len(prefix) - len(suffix)
    special_ids = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    blocks: list[TextBlock] = []
    for text in texts:
        tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
        pieces = [tokens[start : start + inside] for start in range(0, len(tokens), inside)]
        if layout == "packed" and pieces and len(pieces[-1]) < inside:
            pieces.pop()
        for piece in pieces:
            special_inside = [token in special_ids for token in piece]
            if special_inside.count(False) < 2:
                continue
            blocks.append(
                TextBlock(
                    number=len(blocks),
                    ids=[*prefix, *piece, *suffix],
                    special=[True] * len(prefix) + special_inside + [True] * len(suffix),
                )
            )
    return blocks


# ---------------------------------------------------------------------------------------------
# What is random, all of it from hashes


def number_of(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest(), "big")


def measurement_order(n_blocks: int, seed: int, corpus_fingerprint: str) -> list[int]:
    return sorted(
        range(n_blocks), key=lambda block: number_of(f"order:{seed}:{corpus_fingerprint}:{block}")
    )


def masked_positions(block: TextBlock, seed: int, corpus_fingerprint: str) -> list[int]:
    """Positions count from 0 at the text block's first token, the prefix included."""
    candidates = [p for p, special in enumerate(block.special) if not special]
    count = max(1, round(Fraction(15, 100) * len(candidates)))  # rounds half to even, exactly
    by_hash = sorted(
        candidates,
        key=lambda p: number_of(f"mask:{seed}:{corpus_fingerprint}:{block.number}:{p}"),
    )
    return sorted(by_hash[:count])


def draw_dims(number: int, size: int, outliers: Sequence[int], width: int, seed: int) -> list[int]:
    candidates = [dim for dim in range(width) if dim not in outliers]
    if size > len(candidates):
        raise ValueError(f"{size} dimensions cannot be drawn from {len(candidates)}")
    chosen: list[int] = []
    i = 0
    while len(chosen) < size:
        dim = candidates[number_of(f"draw:{seed}:{number}:{i}") % len(candidates)]
        if dim not in chosen:
            chosen.append(dim)
        i += 1
    return chosen


# ---------------------------------------------------------------------------------------------
# Detection


def z_scores(values: torch.Tensor) -> torch.Tensor:
    return (values - values.mean()) / values.std(unbiased=True)


def all_z_scores(model: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Z of scale and of bias, each (layers, D) in float64."""
    found = sites(model)
    scale = torch.stack([z_scores(site.scale) for site in found])
    biases = [site.bias for site in found if site.bias is not None]
    return scale, torch.stack([z_scores(bias) for bias in biases]) if biases else None


def detect(model: Any, k: float = 3.0, share: Fraction = Fraction(1, 2)) -> list[Outlier]:
    scale_z, bias_z = all_z_scores(model)
    flagged = scale_z.abs() > k  # (L, D)
    if bias_z is not None:
        flagged &= bias_z.abs() > k
    needed = math.ceil(share * flagged.shape[0])
    return [
        Outlier(
            dim=dim,
            layers=flagged[:, dim].nonzero().flatten().tolist(),
            scale_z=scale_z[:, dim].tolist(),
            bias_z=None if bias_z is None else bias_z[:, dim].tolist(),
        )
        for dim in range(flagged.shape[1])
        if int(flagged[:, dim].sum()) >= needed
    ]


def furthest_dim(model: Any) -> int:
    """The dimension whose |z|, averaged over layers (and over scale and bias), is largest."""
    scale_z, bias_z = all_z_scores(model)
    mean = scale_z.abs().mean(dim=0)
    if bias_z is not None:
        mean = (mean + bias_z.abs().mean(dim=0)) / 2
    return int(mean.argmax())


# ---------------------------------------------------------------------------------------------
# Scoring and ablation


@contextmanager
def zeroed(model: Any, dims: Sequence[int]) -> Iterator[None]:
    """Set the features' parameters to 0 in place, in all layers, and restore them afterwards."""
    parameters = {id(p): p for site in sites(model) for p in site.parameters}.values()
    saved = [parameter.detach().clone() for parameter in parameters]
    try:
        with torch.no_grad():
            for parameter in parameters:
                for dim in dims:
                    parameter[dim] = 0.0
        yield
    finally:
        with torch.no_grad():
            for parameter, before in zip(parameters, saved, strict=True):
                parameter.copy_(before)


def nll_of_block(
    checkpoint: Checkpoint, block: TextBlock, seed: int, corpus_fingerprint: str
) -> tuple[float, int]:
    """Summed negative log-likelihood in nats, and the number of scored tokens."""
    shown = list(block.ids)
    if checkpoint.kind == "masked":
        targets = masked_positions(block, seed, corpus_fingerprint)
        sources = targets
        for position in targets:
            shown[position] = checkpoint.tokenizer.mask_token_id
    else:
        targets = list(range(1, len(block.ids)))
        sources = [position - 1 for position in targets]
    input_ids = torch.tensor([shown])  # (1, T)
    with torch.no_grad():
        logits = checkpoint.model(
            input_ids=input_ids, attention_mask=torch.ones_like(input_ids)
        ).logits[0]  # (T, V)
        log_probabilities = torch.log_softmax(logits.double(), dim=-1)
    nll = 0.0
    for source, target in zip(sources, targets, strict=True):
        nll -= float(log_probabilities[source, block.ids[target]])
    return nll, len(targets)


def nlls(
    checkpoint: Checkpoint,
    blocks: Sequence[TextBlock],
    order_positions: Sequence[int],
    dims: Sequence[int] | None = None,
    *,
    seed: int,
    corpus_fingerprint: str,
) -> list[tuple[float, int]]:
    """(NLL, tokens) of the text blocks with these numbers, in this order, under one ablation."""
    with zeroed(checkpoint.model, dims or []):
        return [
            nll_of_block(checkpoint, blocks[number], seed, corpus_fingerprint)
            for number in order_positions
        ]


def log_perplexity(scored: Sequence[tuple[float, int]]) -> float:
    return math.fsum(nll for nll, _ in scored) / sum(tokens for _, tokens in scored)


def exhaustive(
    checkpoint: Checkpoint,
    blocks: Sequence[TextBlock],
    order: Sequence[int],
    dims: Sequence[int],
    draw_size: int,
    *,
    seed: int,
    corpus_fingerprint: str,
) -> dict[str, list[tuple[float, int]]]:
    """Every fixed condition over the whole order; take `log_perplexity` of each value.

    The conditions are ``intact``, ``dim308`` for each outlier, ``joint``, and ``draw0`` to
    ``draw2``: the protocol's first three draws, each kept for all text blocks.
    """
    width = sites(checkpoint.model)[0].scale.shape[0]
    conditions: dict[str, list[int]] = {"intact": []}
    conditions |= {f"dim{dim}": [dim] for dim in dims}
    conditions["joint"] = list(dims)
    for number in FIXED_DRAWS:
        conditions[f"draw{number}"] = draw_dims(number, draw_size, dims, width, seed)
    results: dict[str, list[tuple[float, int]]] = {}
    for name, ablated in conditions.items():
        began = time.monotonic()
        results[name] = nlls(
            checkpoint, blocks, order, ablated, seed=seed, corpus_fingerprint=corpus_fingerprint
        )
        sys.stderr.write(
            f"{name} {ablated}: log perplexity {log_perplexity(results[name]):.9f}, "
            f"{time.monotonic() - began:.0f} s\n"
        )
    return results


def control(
    checkpoint: Checkpoint,
    blocks: Sequence[TextBlock],
    order: Sequence[int],
    dims: Sequence[int],
    draw_size: int,
    intact: Sequence[tuple[float, int]],
    *,
    seed: int,
    corpus_fingerprint: str,
) -> tuple[list[Draw], list[tuple[float, int]]]:
    """One pass of random draws over the order: the draws, and (NLL, tokens) per text block."""
    width = sites(checkpoint.model)[0].scale.shape[0]
    draws: list[Draw] = []
    scored: list[tuple[float, int]] = []
    place = 0
    while place < len(order):
        chosen = draw_dims(len(draws), draw_size, dims, width, seed)
        places: list[int] = []
        delta_nll, tokens = 0.0, 0
        with zeroed(checkpoint.model, chosen):
            while place < len(order) and tokens < MIN_TOKENS_PER_DRAW:
                block = blocks[order[place]]
                nll, n = nll_of_block(checkpoint, block, seed, corpus_fingerprint)
                scored.append((nll, n))
                delta_nll += nll - intact[place][0]
                tokens += n
                places.append(place)
                place += 1
        draws.append(
            Draw(
                number=len(draws),
                dims=chosen,
                places=places,
                delta_nll=delta_nll,
                tokens=tokens,
                complete=tokens >= MIN_TOKENS_PER_DRAW,
            )
        )
    return draws, scored


# ---------------------------------------------------------------------------------------------
# Command line


def claims(
    fixed: dict[str, list[tuple[float, int]]],
    draws: Sequence[Draw],
    control_scored: Sequence[tuple[float, int]],
) -> dict[str, object]:
    """The four claims, evaluated exactly on the text blocks that were measured."""
    intact = log_perplexity(fixed["intact"])
    ratios = {
        name: math.exp(log_perplexity(scored) - intact)
        for name, scored in fixed.items()
        if name != "intact"
    }
    median = math.exp(float(np.median([d.log_degradation for d in draws if d.complete])))
    joint_delta = math.fsum(
        a[0] - b[0] for a, b in zip(fixed["joint"], fixed["intact"], strict=True)
    )
    control_delta = math.fsum(
        a[0] - b[0] for a, b in zip(control_scored, fixed["intact"], strict=True)
    )
    return {
        "degradations": ratios,
        "single >= 1.05": {n: r >= 1.05 for n, r in ratios.items() if n.startswith("dim")},
        "joint >= 1.5": ratios["joint"] >= 1.5,
        "control_median": median,
        "control_median < 1.10": median < 1.10,
        "complete_draws": sum(d.complete for d in draws),
        "joint_delta_nll": joint_delta,
        "control_delta_nll": control_delta,
        "joint delta > 0 and >= 5 x control delta": joint_delta > 0
        and joint_delta >= 5 * control_delta,
    }


def rounded(scored: Sequence[tuple[float, int]], keep: int) -> list[list[float]]:
    return [[round(nll, 6), tokens] for nll, tokens in scored[:keep]]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--corpus", required=True, help="PATH or PATH:column")
    parser.add_argument("--layout", choices=["lines", "packed"], required=True)
    parser.add_argument("--limit-blocks", type=int, help="the first N of the seeded order")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--block-size", type=int, default=128)
    parser.add_argument("--dims", default="auto", help="auto, furthest, or 308,381")
    parser.add_argument("--k", type=float, default=3.0)
    parser.add_argument("--share", type=Fraction, default=Fraction(1, 2))
    parser.add_argument("--draw-size", type=int, help="default: as many as --dims")
    parser.add_argument("--keep-blocks", type=int, default=0, help="list NLLs of the first N")
    options = parser.parse_args(arguments)

    began = time.monotonic()
    checkpoint = load(options.model)
    texts = read_corpus(options.corpus, options.layout)
    digest = fingerprint(texts, options.layout)
    blocks = text_blocks(texts, options.layout, checkpoint.tokenizer, options.block_size)
    order = measurement_order(len(blocks), options.seed, digest)[: options.limit_blocks]

    outliers = detect(checkpoint.model, options.k, options.share)
    if options.dims == "auto":
        dims = [outlier.dim for outlier in outliers]
    elif options.dims == "furthest":
        dims = [furthest_dim(checkpoint.model)]
    else:
        dims = [int(dim) for dim in options.dims.split(",")]
    if not dims:
        sys.stderr.write("no outlier dimension was detected; name some with --dims\n")
        return 1
    draw_size = options.draw_size or len(dims)
    sys.stderr.write(f"{len(blocks)} text blocks, {len(order)} measured, dims {dims}\n")

    fixed = exhaustive(
        checkpoint, blocks, order, dims, draw_size, seed=options.seed, corpus_fingerprint=digest
    )
    draws, control_scored = control(
        checkpoint,
        blocks,
        order,
        dims,
        draw_size,
        fixed["intact"],
        seed=options.seed,
        corpus_fingerprint=digest,
    )
    width = sites(checkpoint.model)[0].scale.shape[0]
    result = {
        "model": options.model.name,
        "kind": checkpoint.kind,
        "layers": len(sites(checkpoint.model)),
        "width": width,
        "corpus": Path(options.corpus).name,
        "layout": options.layout,
        "fingerprint": digest,
        "seed": options.seed,
        "block_size": options.block_size,
        "texts": len(texts),
        "text_blocks": len(blocks),
        "text_blocks_measured": len(order),
        "scored_tokens": sum(tokens for _, tokens in fixed["intact"]),
        "order_head": order[:16],
        "detected": {
            "k": options.k,
            "share": str(options.share),
            "outliers": [vars(outlier) for outlier in outliers],
        },
        "dims": dims,
        "draw_size": draw_size,
        "fixed_draws": {
            f"draw{n}": draw_dims(n, draw_size, dims, width, options.seed) for n in FIXED_DRAWS
        },
        "log_perplexity": {name: log_perplexity(scored) for name, scored in fixed.items()},
        "perplexity": {name: math.exp(log_perplexity(s)) for name, s in fixed.items()},
        "claims": claims(fixed, draws, control_scored),
        "draws": [
            {
                "number": draw.number,
                "dims": draw.dims,
                "places": [draw.places[0], draw.places[-1]],
                "tokens": draw.tokens,
                "log_degradation": draw.log_degradation,
                "complete": draw.complete,
            }
            for draw in draws
        ],
        "nlls": {
            name: rounded(scored, options.keep_blocks)
            for name, scored in {**fixed, "control": control_scored}.items()
        },
        "seconds": round(time.monotonic() - began, 1),
    }
    sys.stdout.write(json.dumps(result) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
