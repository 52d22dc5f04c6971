import copy
import json
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from robustness.ablation.ablation import Ablation
from robustness.ablation.hooks import ablated, ablated_rows
from robustness.anatomy.anatomy import trace_anatomy
from robustness.anatomy.stacks import Stack
from robustness.errors import MeasurementError, UnsupportedSite
from tests.support.checkpoints.tiny_models import ARCHITECTURES, tiny_inputs, tiny_model
from tests.support.checkpoints.watching import logits, watched

few_examples = settings(max_examples=15, deadline=None)


class Case(NamedTuple):
    """A random model, something to feed it, and something to ablate in it."""

    model: nn.Module
    stack: Stack
    inputs: dict[str, Tensor]
    ablation: Ablation
    other: Ablation


@st.composite
def cases(draw: st.DrawFn) -> Case:
    architecture = draw(st.sampled_from(["bert", "albert", "gpt2", "llama"]))
    hidden_size = draw(st.sampled_from([16, 24, 32]))
    n_layers = draw(st.integers(2, 4))
    seed = draw(st.integers(0, 1000))
    model = tiny_model(architecture, hidden_size=hidden_size, n_layers=n_layers, seed=seed)
    inputs = tiny_inputs(architecture, seed=seed)
    stack = trace_anatomy(model, inputs).stack

    def indices(below: int) -> st.SearchStrategy[tuple[int, ...]]:
        chosen = st.lists(st.integers(0, below - 1), min_size=1, max_size=4, unique=True)
        return chosen.map(tuple)

    ablations = st.builds(Ablation, dims=indices(hidden_size), layers=st.none() | indices(n_layers))
    return Case(model, stack, inputs, draw(ablations), draw(ablations))


def state(model: nn.Module) -> dict[str, Any]:
    """Everything that a context manager could leave behind: bits, identities, hooks."""
    tensors = {
        f"{kind} {name}": (id(tensor), tensor.detach().numpy().tobytes())
        for kind in ("parameters", "buffers")
        for name, tensor in getattr(model, f"named_{kind}")()
    }
    attributes = {
        f"{name} {attribute}": list(value) if isinstance(value, dict | set) else value
        for name, module in model.named_modules()
        for attribute, value in vars(module).items()
        if "hook" in attribute or attribute in {"training", "forward"}
    }
    return tensors | attributes


def modules(stack: Stack) -> set[str]:
    return {site.module for site in stack.sites}


def features(case: Case) -> list[Tensor]:
    """The output of each layer's site, (L)(B, T, D)."""
    with watched(case.model, modules(case.stack)) as seen:
        logits(case.model, case.inputs)
    return [seen[site.module][site.execution] for site in case.stack.sites]


@few_examples
@given(cases())
def test_ablated_features_are_zero_at_every_position(case: Case) -> None:
    with ablated(case.model, case.stack, case.ablation):
        outputs = features(case)
    dims = list(case.ablation.dims)
    for layer, output in enumerate(outputs):
        if case.ablation.layers is None or layer in case.ablation.layers:
            assert (output[..., dims] == 0).all()
            intact = [d for d in range(output.shape[-1]) if d not in dims]
            assert (output[..., intact] != 0).any()
        else:
            assert (output[..., dims] != 0).any()


@few_examples
@given(cases())
def test_afterwards_the_model_is_bit_identical(case: Case) -> None:
    before, intact = state(case.model), logits(case.model, case.inputs)
    with ablated(case.model, case.stack, case.ablation):
        once = logits(case.model, case.inputs)
        again = logits(case.model, case.inputs)
    assert torch.equal(once, again)
    assert not torch.equal(once, intact)
    assert state(case.model) == before
    assert torch.equal(logits(case.model, case.inputs), intact)


@few_examples
@given(cases())
def test_nested_ablations_add_up_and_come_undone_one_by_one(case: Case) -> None:
    before, intact = state(case.model), logits(case.model, case.inputs)
    with ablated(case.model, case.stack, case.ablation):
        outer, within = state(case.model), logits(case.model, case.inputs)
        with ablated(case.model, case.stack, case.other):
            for output, layer in zip(features(case), range(case.stack.n_layers), strict=True):
                for ablation in (case.ablation, case.other):
                    if ablation.layers is None or layer in ablation.layers:
                        assert (output[..., list(ablation.dims)] == 0).all()
        assert state(case.model) == outer
        assert torch.equal(logits(case.model, case.inputs), within)
    assert state(case.model) == before
    assert torch.equal(logits(case.model, case.inputs), intact)


@few_examples
@given(cases(), st.booleans())
def test_an_exception_restores_the_model_too(case: Case, during_forward: bool) -> None:
    before, intact = state(case.model), logits(case.model, case.inputs)

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    def interrupted() -> None:
        if not during_forward:
            raise KeyboardInterrupt
        last = case.model.get_submodule(case.stack.sites[-1].module)
        handle = last.register_forward_hook(fail)
        try:
            logits(case.model, case.inputs)
        finally:
            handle.remove()

    with (
        pytest.raises(KeyboardInterrupt),
        ablated(case.model, case.stack, case.ablation),
        ablated(case.model, case.stack, case.other),
    ):
        interrupted()
    assert state(case.model) == before
    assert torch.equal(logits(case.model, case.inputs), intact)


@few_examples
@given(cases())
def test_a_forward_pass_after_one_that_failed_is_ablated_alike(case: Case) -> None:
    with ablated(case.model, case.stack, case.ablation):
        expected = logits(case.model, case.inputs)
        first = case.model.get_submodule(case.stack.sites[0].module)

        def fail(*_: object) -> None:
            raise MemoryError

        handle = first.register_forward_hook(fail)
        with pytest.raises(MemoryError):
            logits(case.model, case.inputs)
        handle.remove()
        assert torch.equal(logits(case.model, case.inputs), expected)


def zero_parameters(model: nn.Module, stack: Stack, dims: list[int], *, neutral: float) -> None:
    """The paper's ablation, as a reference: overwrite scales and biases."""
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for site in stack.sites:
            scale = parameters[site.scale]
            scale.index_fill_(site.feature_axis, torch.tensor(dims), neutral)
            if site.bias is not None:
                parameters[site.bias][dims] = 0


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_ablation_does_what_zeroing_the_parameters_does(architecture: str) -> None:
    model, inputs = tiny_model(architecture), tiny_inputs(architecture)
    for stack in trace_anatomy(model, inputs).stacks:
        zeroed = copy.deepcopy(model)
        # Gemma's norms multiply by 1 + weight.
        neutral = -1 if architecture in {"gemma2", "gemma3"} else 0
        zero_parameters(zeroed, stack, [3, 7], neutral=neutral)
        with ablated(model, stack, Ablation(dims=(3, 7))):
            actual = logits(model, inputs)
        torch.testing.assert_close(actual, logits(zeroed, inputs), rtol=1e-4, atol=1e-4)
        assert not torch.allclose(actual, logits(model, inputs), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_rows_are_ablated_as_if_each_were_alone(architecture: str) -> None:
    model, inputs = tiny_model(architecture), tiny_inputs(architecture, rows=3)
    rows: list[list[int]] = [[1, 5], [], [2]]
    for stack in trace_anatomy(model, inputs).stacks:
        intact = logits(model, inputs)
        with ablated_rows(model, stack, rows):
            together = logits(model, inputs)
        for row, dims in enumerate(rows):
            own_inputs = {name: tensor[row : row + 1] for name, tensor in inputs.items()}
            if dims:
                with ablated(model, stack, Ablation(dims=tuple(dims))):
                    alone = logits(model, own_inputs)
                assert not torch.allclose(together[row], intact[row], rtol=1e-3, atol=1e-3)
            else:
                alone = logits(model, own_inputs)
            torch.testing.assert_close(together[row], alone[0], rtol=1e-4, atol=1e-4)


@few_examples
@given(cases())
def test_rows_are_ablated_in_the_chosen_layers(case: Case) -> None:
    rows = [case.ablation.dims, case.other.dims]
    layers = case.ablation.layers
    before, intact = state(case.model), logits(case.model, case.inputs)
    with ablated_rows(case.model, case.stack, rows, template=Ablation(dims=(0,), layers=layers)):
        outputs = features(case)
    for layer, output in enumerate(outputs):
        for row, dims in enumerate(rows):
            zero = output[row][..., list(dims)] == 0
            assert zero.all() if layers is None or layer in layers else not zero.all()
    assert state(case.model) == before
    assert torch.equal(logits(case.model, case.inputs), intact)


@pytest.mark.parametrize("by_rows", [False, True])
def test_what_a_module_returned_is_copied_not_changed(by_rows: bool) -> None:
    model, inputs = tiny_model("bert"), tiny_inputs("bert")
    stack = trace_anatomy(model, inputs).stack
    ablation = Ablation(dims=(4,))
    with (
        # Its hooks run before those of the ablation.
        watched(model, modules(stack), copied=False) as seen,
        ablated_rows(model, stack, [[4], [4]]) if by_rows else ablated(model, stack, ablation),
    ):
        logits(model, inputs)
    assert all((output[..., 4] != 0).all() for (output,) in seen.values())


def test_both_streams_of_a_permutation_language_model_are_ablated() -> None:
    model, inputs = tiny_model("xlnet"), tiny_inputs("xlnet")
    stack = trace_anatomy(model, inputs).stack
    target = torch.zeros(2, 1, 8)
    target[:, :, 3] = 1
    inputs |= {"perm_mask": target.expand(2, 8, 8).contiguous(), "target_mapping": target}
    with ablated(model, stack, Ablation(dims=(4,))), watched(model, modules(stack)) as seen:
        logits(model, inputs)
    assert [len(outputs) for outputs in seen.values()] == [2, 2, 2]
    assert all((output[..., 4] == 0).all() for outputs in seen.values() for output in outputs)


def test_the_stack_may_be_called_without_its_head() -> None:
    model, inputs = tiny_model("gpt2"), tiny_inputs("gpt2")
    stack = trace_anatomy(model, inputs).stack
    with ablated(model, stack, Ablation(dims=(4,))), torch.no_grad():
        hidden = model.get_submodule("transformer")(**inputs).last_hidden_state
        actual = model.get_submodule("lm_head")(hidden)
        torch.testing.assert_close(actual, logits(model, inputs))


def test_a_forward_pass_with_other_layers_than_the_traced_one_is_an_error() -> None:
    model, inputs = tiny_model("bert"), tiny_inputs("bert")
    stack = trace_anatomy(model, inputs).stack
    layers = model.get_submodule("bert.encoder.layer")
    assert isinstance(layers, nn.ModuleList)
    with ablated(model, stack, Ablation(dims=(4,))):
        layers.append(layers[0])
        with pytest.raises(MeasurementError, match=r"layer\.0' was executed more than 1 times"):
            logits(model, inputs)
        del layers[3], layers[2]
        with pytest.raises(MeasurementError, match=r"nothing was ablated in the layers \[2\]"):
            logits(model, inputs)


def test_rows_must_be_as_many_as_the_batch_has() -> None:
    model, inputs = tiny_model("bert"), tiny_inputs("bert")
    stack = trace_anatomy(model, inputs).stack
    with (
        ablated_rows(model, stack, [[1], [2], [3]]),
        pytest.raises(MeasurementError, match=r"given for 3 rows, but axis 0 .* has 2 entries"),
    ):
        logits(model, inputs)


def test_rows_must_be_given() -> None:
    model = tiny_model("bert")
    stack = trace_anatomy(model, tiny_inputs("bert")).stack
    with pytest.raises(ValueError, match="one or more rows"), ablated_rows(model, stack, []):
        pass


def test_rows_need_a_known_batch_axis() -> None:
    model = tiny_model("bert")
    stack = trace_anatomy(model, tiny_inputs("bert", rows=1)).stack
    with (
        pytest.raises(UnsupportedSite, match="not known which axis"),
        ablated_rows(model, stack, [[1]]),
    ):
        pass


@pytest.mark.parametrize(
    ("ablation", "message"),
    [
        (Ablation(dims=(3, 16)), "no dimension 16: .* numbered from 0 to 15"),
        (Ablation(dims=(3,), layers=(0, 3)), "no layer 3: .* numbered from 0 to 2"),
    ],
)
def test_what_the_model_does_not_have_cannot_be_ablated(ablation: Ablation, message: str) -> None:
    model = tiny_model("bert")
    stack = trace_anatomy(model, tiny_inputs("bert")).stack
    before = state(model)
    with pytest.raises(UnsupportedSite, match=message), ablated(model, stack, ablation):
        pass
    with (
        pytest.raises(UnsupportedSite, match=message),
        ablated_rows(model, stack, [ablation.dims], template=ablation),
    ):
        pass
    assert state(model) == before


@pytest.mark.parametrize("dims", [(), (-1,), (2, 2)])
def test_meaningless_indices_are_refused(dims: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="dimension indices must be"):
        Ablation(dims=dims)
    with pytest.raises(ValueError, match="layer indices must be"):
        Ablation(dims=(1,), layers=dims)


def test_unknown_sites_and_modes_are_refused() -> None:
    with pytest.raises(UnsupportedSite, match=r"'middle'; use 'output', .* or 'embedding-norm'"):
        Ablation(dims=(1,), site="middle")
    with pytest.raises(UnsupportedSite, match="'double'; use 'zero' or 'mean'"):
        Ablation(dims=(1,), mode="double")
    with pytest.raises(UnsupportedSite, match="'embedding-norm' lies before the layers"):
        Ablation(dims=(1,), site="embedding-norm", layers=(0,))
    with pytest.raises(UnsupportedSite, match="belongs to the site 'residual', not to 'output'"):
        Ablation(dims=(1,), embeddings=True)


def test_indices_are_sorted_plain_integers_and_survive_json() -> None:
    ablation = Ablation(dims=tuple(np.array([5, 2])), layers=(3, 1))
    assert ablation == Ablation(dims=(2, 5), layers=(1, 3))
    assert Ablation.from_dict(json.loads(json.dumps(ablation.to_dict()))) == ablation
    everywhere = Ablation(dims=(2,), site="residual", mode="mean", embeddings=True)
    assert Ablation.from_dict(json.loads(json.dumps(everywhere.to_dict()))) == everywhere
