"""Eight-bit weights and activations, simulated at the dense layers of an unmodified model.

Symmetric absmax int8 per tensor: a tensor ``t`` becomes ``round(t / s)``, ``s = max|t| / 127``, and
what a dense layer makes of it ``s_x · s_w · (q_x q_w)`` plus its bias in float. Sums of products of
such integers are exact in float32 up to 2^24 (1,040 inputs, all at their largest and of one sign);
beyond, they are rounded in the eighth digit.

So that no result depends on which text blocks share a batch, nor on padding, one runs at a time.
Each layer's weights are quantised when it is called, and forgotten: processes go on sharing them.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from robustness.ablation.resume import forward_replaced
from robustness.anatomy.dense import DenseLayer, named_modules

STEPS = 127
"""Largest integer; -128 is not used, so that the range is symmetric."""


@contextmanager
def quantized(
    model: nn.Module, layers: Sequence[DenseLayer], spared: Sequence[int] = ()
) -> Iterator[None]:
    """Compute the dense layers with 8-bit weights and activations within the context.

    On leaving, also by an exception, the model is as it was; no parameter is changed at any time.
    The spared hidden dimensions stay in float, as the outlier features of LLM.int8() (Dettmers et
    al. 2022): where they are read, both their activations and the weights that multiply these;
    where they are written, the weights that do so and what these multiply.
    """
    dims = torch.tensor(sorted(spared), dtype=torch.long)
    with ExitStack() as undo:
        for layer, module in named_modules(model, tuple(layers)):
            compute = partial(_forward, module, layer, dims)
            undo.enter_context(forward_replaced(module, compute))
        yield


def _forward(module: nn.Module, layer: DenseLayer, dims: Tensor, x: Tensor) -> Tensor:
    """What the layer makes of its input with quantised weights and activations, (…, in) -> out."""
    matrix = module.get_parameter(layer.weight)
    weight = matrix if layer.out_axis == 0 else matrix.T  # (out, in)
    bias = None if layer.bias is None else module.get_parameter(layer.bias)
    kept = dims.to(x.device)
    with torch.autocast(x.device.type, enabled=False):
        y = dense_int8(
            x.float(),
            weight.float(),
            reads=kept if layer.reads else kept[:0],
            writes=kept if layer.writes else kept[:0],
        )
        return (y if bias is None else y + bias).to(x.dtype)


def dense_int8(x: Tensor, weight: Tensor, *, reads: Tensor, writes: Tensor) -> Tensor:
    """``x @ weight.T``, shapes (…, in) and (out, in), in simulated int8, some features in float32.

    These are the input features ``reads`` and the output features ``writes``.
    """
    q_weight = weight
    if len(reads) or len(writes):
        q_weight = weight.index_fill(1, reads, 0).index_fill_(0, writes, 0)
    q_weight, weight_scale = quantize(q_weight)
    q_x, x_scale = quantize(x.index_fill(-1, reads, 0) if len(reads) else x)
    y = nn.functional.linear(q_x, q_weight) * (x_scale * weight_scale)
    if len(reads):
        y += nn.functional.linear(x[..., reads], weight[:, reads])
    if len(writes):
        y[..., writes] = nn.functional.linear(x, weight[writes])
    return y


def quantize(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """Integers from -127 to 127, as floats, and the scale they are multiples of.

    A tensor of zeros stays one; a scale that is not finite makes everything NaN, and is seen.
    """
    scale = tensor.abs().max() / STEPS
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    return (tensor / scale).round_().clamp_(-STEPS, STEPS), scale
