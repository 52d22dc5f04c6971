"""Forward passes that start in the middle equal whole ones, and leave nothing behind."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustness.ablation.ablation import Ablation
from robustness.ablation.hooks import ablated
from robustness.ablation.resume import Kept, kept, resumed
from robustness.anatomy.anatomy import trace_anatomy
from robustness.anatomy.stacks import Stack
from robustness.errors import MeasurementError, UnsupportedArchitecture
from tests.ablation.test_ablation import state
from tests.support.checkpoints.tiny_models import (
    ARCHITECTURES,
    UNSUPPORTED,
    tiny_inputs,
    tiny_model,
)

LAYERS = 4
QUICK = {
    "albert",
    "bart",
    "bert",
    "deberta-v2",
    "gemma2",
    "gpt2",
    "jamba",
    "llama",
    "opt",
    "t5",
    "xlnet",
}
WHOLE = {"flaubert", "funnel", "xlm"}
"""Run as a whole: layers that are no modules (FlauBERT, XLM), or pooled in between (Funnel)."""


def traced(architecture: str) -> tuple[nn.Module, Stack, dict[str, Tensor]]:
    listed = ARCHITECTURES.get(architecture, ("", "", {}))[2].get("layers_block_type")
    n_layers = len(listed) if listed else LAYERS
    model, inputs = tiny_model(architecture, n_layers=n_layers), tiny_inputs(architecture)
    return model, trace_anatomy(model, inputs).stack, inputs


def logits(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        result: Tensor = model(**inputs).logits
    return result


@pytest.mark.parametrize(
    "architecture",
    [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
        for name in [*ARCHITECTURES, *UNSUPPORTED]
    ],
)
def test_starting_at_a_layer_equals_the_whole_forward_pass_to_the_bit(architecture: str) -> None:
    model, stack, inputs = traced(architecture)
    assert stack.resumable == (architecture not in WHOLE)
    if not stack.resumable:
        with pytest.raises(UnsupportedArchitecture), resumed(model, stack, Kept(), 1):
            raise AssertionError("it began")
        return
    inputs = tiny_inputs(architecture, rows=3, seed=5)  # other text than was traced
    with kept(model, stack) as known:
        intact = logits(model, inputs)
    assert len(known.outputs) == stack.n_layers
    before = state(model)
    for layer in range(stack.n_layers):
        one = Ablation(dims=(2, 5), layers=(layer,), site="residual")
        with ablated(model, stack, one):
            expected = logits(model, inputs)
        with resumed(model, stack, known, layer):
            assert torch.equal(logits(model, inputs), intact)
            with ablated(model, stack, one):
                assert torch.equal(logits(model, inputs), expected)
                assert torch.equal(logits(model, inputs), expected)  # nothing was used up
        assert not torch.equal(expected, intact)
        assert state(model) == before


@pytest.mark.parametrize("architecture", ["albert", "bart", "bert", "gpt2", "llama", "opt"])
def test_the_layers_before_do_not_run(architecture: str) -> None:
    model, stack, inputs = traced(architecture)
    with kept(model, stack) as known:
        logits(model, inputs)
    ran: list[str] = []
    handles = [
        model.get_submodule(site.module).register_forward_hook(
            lambda *_, name=site.module: ran.append(name)
        )
        for site in {site.module: site for site in stack.sites}.values()
    ]
    for layer in range(stack.n_layers):
        ran.clear()
        with resumed(model, stack, known, layer):
            logits(model, inputs)
        assert ran == [site.module for site in stack.sites[layer:]]
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("architecture", ["albert", "bert", "bart"])
def test_an_exception_restores_the_layers(architecture: str) -> None:
    model, stack, inputs = traced(architecture)
    with kept(model, stack) as known:
        intact = logits(model, inputs)
    before = state(model)
    with pytest.raises(KeyboardInterrupt), resumed(model, stack, known, 2):
        raise KeyboardInterrupt

    def fail(*_: object) -> None:
        raise MemoryError

    handle = model.get_submodule(stack.layers[-1].module).register_forward_pre_hook(fail)
    with pytest.raises(MemoryError), resumed(model, stack, known, 2):
        logits(model, inputs)
    handle.remove()
    assert state(model) == before
    assert torch.equal(logits(model, inputs), intact)


def test_a_forward_of_somebody_else_is_put_back() -> None:
    model, stack, inputs = traced("bert")
    layer: Any = model.get_submodule(stack.layers[0].module)
    own = layer.forward
    calls: list[int] = []

    def counting(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return own(*args, **kwargs)

    layer.forward = counting
    with kept(model, stack) as known:
        intact = logits(model, inputs)
    with resumed(model, stack, known, 1), resumed(model, stack, known, 2):  # nested, too
        assert torch.equal(logits(model, inputs), intact)
    assert len(calls) == 1
    assert layer.forward is counting
    logits(model, inputs)
    assert len(calls) == 2


def test_layers_that_hand_on_more_than_they_return_are_not_skipped() -> None:
    class Remembering(nn.Module):
        """Adds what all layers returned, and not the last one's only."""

        def __init__(self) -> None:
            super().__init__()
            self.bert = tiny_model("bert")

        def forward(self, input_ids: Tensor) -> Tensor:
            bert: Any = self.bert
            x: Tensor = bert.bert.embeddings(input_ids)
            total = torch.zeros_like(x)
            for layer in bert.bert.encoder.layer:
                x = layer(x)
                total = total + x
            return total

    model, inputs = Remembering().eval(), {"input_ids": tiny_inputs("bert")["input_ids"]}
    stack = trace_anatomy(model, inputs).stack
    assert not stack.resumable
    with kept(model, stack) as known, torch.no_grad():
        model(**inputs)
    with (
        pytest.raises(UnsupportedArchitecture, match="hand on more than they return"),
        resumed(model, stack, known, 1),
    ):
        pass


def test_the_outputs_of_all_layers_are_needed() -> None:
    model, stack, _ = traced("bert")
    with (
        pytest.raises(MeasurementError, match="0 layers of 0 forward passes were kept where"),
        resumed(model, stack, Kept(), 1),
    ):
        pass
