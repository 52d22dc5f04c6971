"""The output sites of a model in memory, such as one that is being trained: found once, read often.

Nothing of the model is copied or changed: not its parameters, gradients, buffers, hooks or modes,
nor the random state of whoever uses it.
"""

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from robustness.anatomy.anatomy import few_tokens, trace_anatomy
from robustness.anatomy.dense import DenseLayer, dense_layers
from robustness.anatomy.parameters import SiteParameters
from robustness.anatomy.stacks import Site, Stack, StackChoice, distinct_sites
from robustness.errors import UnsupportedArchitecture, UnsupportedSite

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PART = 64  # inputs of a dense writer that are squared at a time, so that no matrix is copied


@dataclass(frozen=True, kw_only=True, eq=False)
class LiveSites:
    """The output sites of a stack with their parameters, held by reference.

    Attributes:
        stack: where the sites are.
        parameters: the model's own parameters, by the names that the stack calls them by.
    """

    stack: Stack
    parameters: Mapping[str, nn.Parameter]

    @torch.no_grad()
    def read(self) -> SiteParameters:
        """Scale and bias as they are now; copies 2·L·D numbers to the processor, at once.

        Raises:
            UnsupportedSite: a parameter does not lie whole in this process.
        """
        features: dict[str, Tensor] = {}  # of a shared site only once

        def read(name: str, site: Site) -> Tensor:
            if name not in features:
                features[name] = _per_feature(self.parameters[name], name, site, self.stack)
            return features[name]

        sites = self.stack.rule_sites
        scales = [read(site.scale, site) for site in sites]
        biases = [read(site.bias, site) for site in sites if site.bias is not None]
        has_biases = len(biases) == len(scales)
        rows = torch.stack(scales + biases if has_biases else scales)  # (L or 2 L, D)
        values: NDArray[np.float64] = rows.cpu().double().numpy()
        return SiteParameters(
            scale=values[: len(scales)],
            bias=values[len(scales) :] if has_biases else None,
            distinct_sites=distinct_sites(self.stack),
        )


def live_sites(model: nn.Module, *, stack: StackChoice = "auto") -> LiveSites:
    """Find the output sites of a model, and leave it and all random states bit by bit as they were.

    Args:
        model: a transformers model, or what wraps it for data parallelism or compilation.
        stack: which stack of layers is meant, see :class:`robustness.anatomy.stacks.Anatomy`.

    Raises:
        UnsupportedArchitecture: it has no vocabulary, or no repeated layers.
        UnsupportedSite: its layers have no output sites, or their parameters do not lie whole in
            this process.
    """
    model = unwrapped(model)
    inputs = _few_tokens(model)
    with undisturbed(inputs["input_ids"].device), torch.compiler.set_stance("force_eager"):
        traced = trace_anatomy(model, inputs, stack=stack).stack
    own = dict(model.named_parameters(remove_duplicate=False))
    names = {
        name for site in traced.rule_sites for name in (site.scale, site.bias) if name is not None
    }
    return LiveSites(stack=traced, parameters={name: own[name] for name in sorted(names)})


def dense_layers_of(model: nn.Module, stack: Stack) -> tuple[DenseLayer, ...]:
    """A model's dense layers; see :func:`robustness.anatomy.dense.dense_layers`.

    Raises:
        UnsupportedArchitecture: it has no vocabulary, or no dense layers.
    """
    return dense_layers(model, _few_tokens(model), stack)


def unwrapped(model: nn.Module) -> nn.Module:
    """The model within what trains it: data parallelism, a compiled module, DeepSpeed's engine."""
    from accelerate.utils import (  # type: ignore[import-untyped]
        extract_model_from_parallel,
    )

    inner: nn.Module = extract_model_from_parallel(model, keep_torch_compile=False)
    # A compiled module can lie on either side of a parallel one.
    return inner if inner is model else unwrapped(inner)


@contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """Give all random states back as they were: Python's, numpy's, torch's, also on this device."""
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002 (others use it)
    devices = [] if device.type == "cpu" else [device]
    kind = "cuda" if device.type == "cpu" else device.type
    try:
        with torch.random.fork_rng(devices=devices, device_type=kind):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)  # noqa: NPY002


def _few_tokens(model: nn.Module) -> dict[str, Tensor]:
    """What a model is run on to be traced, where its parameters are."""
    table = _token_table(model)
    inputs = few_tokens(model, table.shape[0])
    return {name: tensor.to(table.device) for name, tensor in inputs.items()}


def _token_table(model: nn.Module) -> nn.Parameter:
    find: Callable[[], Any] | None = getattr(model, "get_input_embeddings", None)
    table = None if find is None else getattr(find(), "weight", None)
    if not isinstance(table, nn.Parameter) or table.ndim != 2:
        raise UnsupportedArchitecture(
            f"{type(model).__name__} names no table of token embeddings, so it cannot be run on "
            "tokens to find its layers; outlier dimensions are looked for in language models."
        )
    return table


def _per_feature(parameter: nn.Parameter, name: str, site: Site, stack: Stack) -> Tensor:
    """A vector as it stands, or the L2 norms of the weights that write each feature, shape (D,)."""
    values = parameter.detach()
    axis = site.feature_axis if values.ndim == 2 else 0
    whole = values.ndim in (1, 2) and values.shape[axis] == stack.hidden_size
    if hasattr(parameter, "full_tensor") or not whole:
        raise UnsupportedSite(
            f"The parameter {name!r} does not lie whole in this process (its shape here is "
            f"{tuple(values.shape)}), as with sharded training: scan the saved checkpoints instead."
        )
    exact = torch.float32 if values.device.type == "mps" else torch.float64
    if values.ndim == 1:
        return values.to(exact)
    parts = torch.split(values, _PART, dim=1 - axis)
    squares = [part.to(exact).square().sum(dim=1 - axis) for part in parts]
    return torch.stack(squares).sum(0).sqrt()
