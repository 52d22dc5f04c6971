"""The same ablation through the hooks of other libraries; prints what it measured as JSON.

    python benchmarks/speed_peers.py LIBRARY '{"model": FOLDER, "dims": […], "blocks": 16, …}'

Started by speed.py with the interpreter that ``--peers-python`` names, since these libraries need
versions and packages that this project does not. LIBRARY is nnsight, pyvene, transformer_lens, or
``plain`` (parameters zeroed in place) and ``robustness`` for comparison: the same text blocks, each
library's own way of changing a feature of what a layer's MLP writes, float32, every logit of a
batch at once, but for ``robustness``.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

BATCH = 4


def main() -> None:
    """Load, run once to warm up, and time the passes over all text blocks."""
    library, options = sys.argv[1], json.loads(sys.argv[2])
    import numpy as np
    import torch
    from transformers import AutoModelForCausalLM

    auto: Any = AutoModelForCausalLM
    began = time.perf_counter()
    network = auto.from_pretrained(options["model"], dtype=torch.float32).eval()
    rng = np.random.default_rng(0)
    size = (options["blocks"], options["length"])
    ids = torch.from_numpy(rng.integers(0, network.config.vocab_size, size))
    run = LIBRARIES[library](network, options["dims"], options["model"])
    batches = torch.split(ids, BATCH)
    with torch.inference_mode():
        run(batches[0])
        started = time.perf_counter() - began
        seconds, nll = 0.0, 0.0
        for _ in range(options["repeats"]):
            began = time.perf_counter()
            nll = sum(run(batch) for batch in batches)
            passed = time.perf_counter() - began
            seconds = min(seconds or passed, passed)
    found = {
        "version": version(library.replace("_", "-").replace("plain", "torch"))
        if library != "robustness"
        else version("pytest-robustness"),
        "start_s": started,
        "per_block_s": seconds / len(ids),
        "nats_per_token": nll / (ids.shape[0] * (ids.shape[1] - 1)),
    }
    print(json.dumps(found))


Run = Callable[[Any], float]


def _nll(logits: Any, ids: Any) -> float:
    import torch

    losses = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
    )
    return float(losses.double().sum())


def plain(network: Any, dims: Sequence[int], _: str) -> Run:
    """Rows of the dense layers that write the features, zeroed in place."""
    import torch

    with torch.no_grad():
        for layer in network.model.layers:
            layer.mlp.down_proj.weight[list(dims)] = 0
    return lambda ids: _nll(network(input_ids=ids, use_cache=False).logits, ids)


def robustness(network: Any, dims: Sequence[int], _: str) -> Run:
    """The package's own pass: logits in slices, nothing changed in place."""
    import numpy as np
    import torch

    from robustness.ablation.ablation import Ablation
    from robustness.ablation.hooks import ablated
    from robustness.anatomy.anatomy import trace_anatomy
    from robustness.scoring.block import causal_block
    from robustness.scoring.forward import Scorer

    tokens = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
    anatomy, scorer = trace_anatomy(network, {"input_ids": tokens}), Scorer(network)
    ablation = Ablation(dims=tuple(dims))

    def run(ids: Any) -> float:
        rows = [causal_block(row.numpy().astype(np.int64)) for row in ids]
        with ablated(network, anatomy.stack, ablation):
            return float(scorer.nll_nats(rows).sum())

    return run


def nnsight(network: Any, dims: Sequence[int], folder: str) -> Run:
    """nnsight: assignments inside a trace."""
    from nnsight import LanguageModel
    from transformers import AutoTokenizer

    auto: Any = AutoTokenizer
    model = LanguageModel(network, tokenizer=auto.from_pretrained(folder))
    chosen = list(dims)

    def run(ids: Any) -> float:
        with model.trace(ids, use_cache=False):
            for layer in model.model.layers:
                layer.mlp.output[:, :, chosen] = 0
            logits = model.lm_head.output.save()
        return _nll(logits, ids)

    return run


def pyvene(network: Any, dims: Sequence[int], _: str) -> Run:
    """pyvene: one intervention per layer, at every position."""
    import pyvene
    import torch

    chosen = list(dims)

    class Zero(pyvene.ConstantSourceIntervention):  # type: ignore[misc]  # untyped
        def __init__(self, **options: Any) -> None:
            super().__init__(**options, keep_last_dim=True)

        def forward(self, base: Any, source: Any = None, subspaces: Any = None) -> Any:  # noqa: ARG002
            changed = base.clone()
            changed[..., chosen] = 0
            return changed

    layers = range(network.config.num_hidden_layers)
    configuration = pyvene.IntervenableConfig(
        [{"layer": layer, "component": "mlp_output", "intervention_type": Zero} for layer in layers]
    )
    model = pyvene.IntervenableModel(configuration, model=network)
    model.set_device("cpu")

    def run(ids: Any) -> float:
        base = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        everywhere = [[list(range(ids.shape[1]))] * len(ids)]
        _, output = model(
            base=base, unit_locations={"base": everywhere * len(layers)}, use_cache=False
        )
        return _nll(output.logits, ids)

    return run


def transformer_lens(network: Any, dims: Sequence[int], folder: str) -> Run:
    """TransformerLens: a hook on every ``mlp_out`` of its bridge to transformers."""
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoTokenizer

    auto: Any = AutoTokenizer
    model = TransformerBridge.boot_transformers(
        folder, hf_model=network, tokenizer=auto.from_pretrained(folder), device="cpu"
    )
    chosen = list(dims)

    def zero(value: Any, hook: Any) -> Any:  # noqa: ARG001
        value = value.clone()
        value[..., chosen] = 0
        return value

    names = [f"blocks.{layer}.hook_mlp_out" for layer in range(network.config.num_hidden_layers)]
    hooks = [(name, zero) for name in names]
    return lambda ids: _nll(model.run_with_hooks(ids, fwd_hooks=hooks, return_type="logits"), ids)


LIBRARIES: dict[str, Callable[[Any, Sequence[int], str], Run]] = {
    "plain": plain,
    "robustness": robustness,
    "nnsight": nnsight,
    "pyvene": pyvene,
    "transformer_lens": transformer_lens,
}

if __name__ == "__main__":
    import warnings

    warnings.simplefilter("ignore")
    main()
