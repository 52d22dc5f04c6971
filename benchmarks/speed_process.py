"""One process of the speed benchmark; prints what it measured as JSON. Started by speed.py.

    python benchmarks/speed_process.py plain '{"model": …, "text": …, "dims": […], "blocks": 32}'

``plain`` is the script that a user would write instead: load in float32, zero the parameters in
place, run, restore; full logits, batches of eight text blocks. ``ours`` measures the same
conditions through the package, exhaustively, and ``ablations`` several ablations of one chunk, one
after the other and in one batch. ``random`` compares the two on a random model. ``saved`` makes a
random checkpoint.
"""

import json
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

BATCH = 8
LENGTH = 128


def peak_mb() -> float:
    """Largest resident memory of this process so far, in MB (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def accelerator_mb(device: str) -> float | None:
    """Most memory that tensors held on a GPU so far, in MB."""
    import torch

    return torch.cuda.max_memory_allocated(device) / 1024**2 if device != "cpu" else None


def matmul_peak(device: str = "cpu", dtype: str = "float32", repeats: int = 6) -> float:
    """Floating-point operations per second of a large matrix product, the best of some."""
    import torch

    n = 1536 if device == "cpu" else 8192
    a, b = (torch.randn(n, n, device=device, dtype=getattr(torch, dtype)) for _ in range(2))
    return 2 * n**3 / min(_seconds(lambda: a @ b, device) for _ in range(repeats))


def operations(run: Callable[[], object]) -> int:
    """Floating-point operations of the matrix products in a call."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


def _seconds(run: Callable[[], object], device: str = "cpu") -> float:
    import torch

    began = time.perf_counter()
    run()
    if device != "cpu":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


# --- the plain script ----------------------------------------------------------------------------


def plain(
    *, model: str, text: str, column: str | None, dims: Sequence[int], blocks: int, device: str
) -> dict[str, Any]:
    """Load, run the first text blocks intact and ablated; how long a text block takes."""
    began = time.perf_counter()
    network, tokenizer = _load(model)
    network.to(device)
    texts = _texts(Path(text), column)
    rows = _lines(tokenizer, texts) if column else _packed(tokenizer, texts[0])
    loaded, load_peak = time.perf_counter() - began, peak_mb()
    batches = [rows[start : start + BATCH] for start in range(0, min(blocks, len(rows)), BATCH)]
    count = sum(map(len, batches))
    mask = getattr(tokenizer, "mask_token_id", None)
    pad = tokenizer.pad_token_id or 0
    first = operations(lambda: _plain_nll(network, batches[0], pad, mask)) / len(batches[0])
    seconds = 0.0
    for chosen in ([], dims):
        with _zeroed(network, chosen):
            seconds += _seconds(
                lambda: [_plain_nll(network, b, pad, mask) for b in batches], device
            )
    per_block = seconds / (2 * count)
    return {
        "start_s": loaded,
        "load_peak_mb": load_peak,
        "peak_mb": peak_mb(),
        "accelerator_mb": accelerator_mb(device),
        "per_block_s": per_block,
        "measured_blocks": 2 * count,
        "corpus_blocks": len(rows),
        "share_of_peak": first / per_block / matmul_peak(device),
    }


def _load(model: str) -> tuple[Any, Any]:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

    causal: Any = AutoModelForCausalLM
    masked: Any = AutoModelForMaskedLM
    if model.startswith("pkg:"):
        package, _, inside = model.removeprefix("pkg:").partition("/")
        spec = find_spec(package)
        assert spec is not None
        assert spec.origin is not None
        folder, gguf = Path(spec.origin).parent, {"gguf_file": inside}
        network = causal.from_pretrained(folder, dtype=torch.float32, **gguf)
        return network.eval(), AutoTokenizer.from_pretrained(folder, **gguf)
    (architecture,) = AutoConfig.from_pretrained(model).architectures
    cls = causal if architecture.endswith("CausalLM") else masked
    network = cls.from_pretrained(model, dtype=torch.float32)
    return network.eval(), AutoTokenizer.from_pretrained(model)


def _texts(file: Path, column: str | None) -> list[str]:
    if column is None:
        return [file.read_text(encoding="utf-8")]
    import csv

    with file.open(encoding="utf-8", newline="") as stream:
        return [row[column] for row in csv.DictReader(stream)]


def _packed(tokenizer: Any, text: str) -> list[list[int]]:
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return [ids[start : start + LENGTH] for start in range(0, len(ids) - LENGTH + 1, LENGTH)]


def _lines(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    found: list[list[int]] = tokenizer(list(texts), truncation=True, max_length=LENGTH)["input_ids"]
    return found


def _plain_nll(network: Any, rows: Sequence[Sequence[int]], pad: int, mask: int | None) -> float:
    """Summed NLL of a batch: full logits, as a script has them."""
    import torch

    length = max(map(len, rows))
    ids = torch.tensor([[*row, *[pad] * (length - len(row))] for row in rows])
    attended = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
    ids, attended = ids.to(network.device), attended.to(network.device)
    with torch.no_grad():
        if mask is None:
            logits = network(input_ids=ids, attention_mask=attended).logits[:, :-1]
            targets, scored = ids[:, 1:], attended[:, 1:].bool()
        else:
            scored = (torch.rand(ids.shape, device=ids.device) < 0.15) & attended.bool()
            corrupted = ids.masked_fill(scored, mask)
            logits, targets = network(input_ids=corrupted, attention_mask=attended).logits, ids
        losses = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), reduction="none"
        )
    return float(losses[scored.flatten()].double().sum())


@contextmanager
def _zeroed(network: Any, dims: Sequence[int]) -> Iterator[None]:
    """Zero scale and bias of the output norms (BERT), or what writes the features (Llama)."""
    import torch

    if hasattr(network, "bert"):
        norms = [layer.output.LayerNorm for layer in network.bert.encoder.layer]
        parameters = [parameter for norm in norms for parameter in (norm.weight, norm.bias)]
    else:
        parameters = [layer.mlp.down_proj.weight for layer in network.model.layers]
    chosen = torch.tensor(dims, dtype=torch.long)
    with torch.no_grad():
        kept = [parameter[chosen].clone() for parameter in parameters]
        for parameter in parameters:
            parameter[chosen] = 0
        yield
        for parameter, values in zip(parameters, kept, strict=True):
            parameter[chosen] = values


# --- the package ---------------------------------------------------------------------------------


def ours(
    *,
    model: str,
    corpus: str,
    store: str,
    dims: Sequence[int],
    chunks: int,
    dtype: str,
    device: str,
) -> dict[str, Any]:
    """The same conditions through the package, which is what an exhaustive run consists of."""
    began = time.perf_counter()
    from robustness.ablation.ablation import Ablation
    from robustness.ablation.interventions import (
        FixedAblation,
        Intact,
        Intervention,
        PerBlockAblation,
    )

    measurement = _measurement(model, corpus, store, dtype, device)
    execution, reduced = measurement._execution, measurement.dtype
    asked = [measurement.scoring_plan.chunk(index) for index in range(chunks)]
    started = time.perf_counter() - began
    ablation = Ablation(dims=tuple(dims))
    conditions: list[Intervention] = [Intact(), FixedAblation(ablation=ablation)]
    conditions.append(PerBlockAblation(template=ablation, dims=tuple((row,) for row in range(16))))
    first = _operations_of(execution, asked[0].rows[:4])
    if device != "cpu":  # its libraries load at their first use
        execution.run(asked[0], conditions, execution.most_tokens, reduced)
    seconds = _seconds(
        lambda: [
            execution.run(chunk, conditions, execution.most_tokens, reduced) for chunk in asked
        ],
        device,
    )
    count = len(conditions) * sum(chunk.n_blocks for chunk in asked)
    return {
        "start_s": started,
        "peak_mb": peak_mb(),
        "accelerator_mb": accelerator_mb(device),
        "per_block_s": seconds / count,
        "measured_blocks": count,
        "corpus_blocks": measurement.layout.n_blocks,
        "dtype": reduced,
        "share_of_peak": first * count / seconds / matmul_peak(device, reduced),
    }


def _operations_of(execution: Any, rows: Sequence[Any]) -> float:
    """Of a text block, in any precision; in bfloat16, torch cannot count grouped attention."""
    return operations(lambda: execution._scorer("float32").nll_nats(rows)) / len(rows)


def _measurement(model: str, corpus: str, store: str, dtype: str, device: str) -> Any:
    from robustness.checkpoint.resolving import resolve
    from robustness.policy.policy import load_policy
    from robustness.store.context import Context
    from robustness.vetting import Vetting

    options = {"corpus": corpus, "dtype": dtype, "device": device}
    settings = load_policy(None, options=options).settings(model)
    checkpoint = resolve(model, cache=Path(store))
    return Vetting(
        checkpoint=checkpoint, settings=settings, context=Context(root=Path(store))
    ).measurement


def ablations(
    *, model: str, corpus: str, store: str, dims: Sequence[int], dtype: str, device: str
) -> dict[str, Any]:
    """One chunk of text blocks under several ablations, one after the other and in one batch."""
    import numpy as np

    from robustness.ablation.ablation import Ablation
    from robustness.ablation.interventions import (
        FixedAblation,
        Intact,
        Intervention,
        PerBlockAblation,
    )
    from robustness.scoring.block import PlannedChunk

    measurement = _measurement(model, corpus, store, dtype, device)
    execution, reduced = measurement._execution, measurement.dtype
    chunk = measurement.scoring_plan.chunk(0)
    tokens = sum(row.length for row in chunk.rows)
    single = [FixedAblation(ablation=Ablation(dims=(dim,))) for dim in dims]
    batch = PlannedChunk.of([[row] for _ in dims for row in chunk.rows])
    together = PerBlockAblation(
        template=single[0].ablation, dims=tuple((dim,) for dim in dims for _ in chunk.rows)
    )

    def run(asked: Any, conditions: Sequence[Intervention], most_tokens: int) -> Any:
        return execution.run(asked, conditions, most_tokens, reduced)[0]

    def timed(asked: Any, conditions: Sequence[Intervention], most_tokens: int) -> float:
        """Seconds per text block and condition, the median of some."""
        passes = len(asked.rows) * len(conditions)
        run(asked, conditions, most_tokens)
        times: list[float] = []
        while len(times) < 5 or (sum(times) < 1 and len(times) < 50):
            times.append(_seconds(lambda: run(asked, conditions, most_tokens), device))
        return float(np.median(times)) / passes

    first = _operations_of(execution, chunk.rows)
    usual, large = execution.most_tokens, len(dims) * tokens
    alone = np.concatenate(run(chunk, single, usual))
    differ = np.abs(alone - run(batch, [together], large)[0]) / np.tile(chunk.tokens, len(dims))
    per_block = {
        "intact": timed(chunk, [Intact()], usual),
        "one ablation": timed(chunk, single[:1], usual),
        f"{len(dims)} ablations, one after the other": timed(chunk, single, usual),
        f"{len(dims)} ablations in one batch": timed(batch, [together], large),
    }
    peak = matmul_peak(device, reduced)
    return {
        "dtype": reduced,
        "peak": peak,
        "per_block_s": per_block,
        "share_of_peak": {name: first / seconds / peak for name, seconds in per_block.items()},
        "largest_difference_nats_per_token": float(differ.max()),
        "accelerator_mb": accelerator_mb(device),
    }


def converted(*, model: str, store: str) -> dict[str, Any]:
    """The folder of safetensors that a checkpoint is, or is converted to."""
    from robustness.checkpoint.resolving import resolve

    return {"folder": str(resolve(model, cache=Path(store)).folder)}


# --- random models -------------------------------------------------------------------------------


def saved(*, kind: str, folder: str, text: str, dims: Sequence[int], device: str) -> dict[str, Any]:
    """A random checkpoint with outlier dimensions and a tokenizer trained on the text."""
    from speed_random import save

    return {"parameters": save(kind, Path(folder), Path(text), dims, device=device)}


def random(
    *, layers: int, hidden: int, length: int, blocks: int, kind: str, batch: int | None = None
) -> dict[str, Any]:
    """A random BERT or Llama of some size: seconds per text block, plain and by the package."""
    import numpy as np
    import torch
    import transformers

    from robustness.measurement.batching import CPU_TOKENS, micro_batches
    from robustness.scoring.block import TextBlock, causal_block
    from robustness.scoring.forward import Scorer
    from robustness.scoring.masked import masked_block
    from robustness.scoring.sampling import BlockSeed

    sizes = {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": max(1, hidden // 64),
        "intermediate_size": 4 * hidden,
        "max_position_embeddings": max(512, length),
        "vocab_size": 30522,
    }
    name = {"bert": "BertForMaskedLM", "llama": "LlamaForCausalLM"}[kind]
    cls: Any = getattr(transformers, name)
    network = cls(cls.config_class(**sizes)).eval()
    rng = np.random.default_rng(0)
    rows = [rng.integers(1000, 30000, length) for _ in range(blocks)]
    special = np.zeros(length, dtype=bool)
    special[[0, -1]] = True
    scored = [
        causal_block(ids)
        if kind == "llama"
        else masked_block(
            TextBlock(ids=ids, special=special, seed=BlockSeed(0, "f", number)), mask_id=103
        )
        for number, ids in enumerate(rows)
    ]
    scorer = Scorer(network)
    batches = micro_batches([length] * blocks, most_tokens=(batch or CPU_TOKENS // length) * length)
    per_block = operations(lambda: scorer.nll_nats(scored[:1]))
    seconds = min(
        _seconds(lambda: [scorer.nll_nats([scored[row] for row in b]) for b in batches])
        for _ in range(2)
    )
    lists = [ids.tolist() for ids in rows]
    mask = 103 if kind == "bert" else None
    script = _seconds(
        lambda: [
            _plain_nll(network, lists[s : s + BATCH], 0, mask) for s in range(0, blocks, BATCH)
        ]
    )
    return {
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "per_block_s": seconds / blocks,
        "plain_per_block_s": script / blocks,
        "share_of_peak": per_block * blocks / seconds / matmul_peak(),
        "peak_mb": peak_mb(),
        "threads": torch.get_num_threads(),
    }


if __name__ == "__main__":
    import warnings

    warnings.simplefilter("ignore")
    scripts: dict[str, Callable[..., dict[str, Any]]] = {
        "plain": plain,
        "ours": ours,
        "ablations": ablations,
        "converted": converted,
        "random": random,
        "saved": saved,
    }
    print(json.dumps(scripts[sys.argv[1]](**json.loads(sys.argv[2]))))
