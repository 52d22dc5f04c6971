"""Sites, modes and layers: what is ablated where, for every architecture."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustness.ablation.ablation import SITES, Ablation
from robustness.ablation.hooks import Means, ablated, ablated_rows, summed
from robustness.anatomy.anatomy import trace_anatomy
from robustness.anatomy.nested import floating_tensors
from robustness.anatomy.stacks import EMBEDDING, Anatomy, Stack
from robustness.errors import MeasurementError, UnsupportedSite
from tests.support.checkpoints.tiny_models import (
    ARCHITECTURES,
    SEQUENCE_TO_SEQUENCE,
    UNSUPPORTED,
    tiny_inputs,
    tiny_model,
)
from tests.support.checkpoints.watching import logits, watched

DIMS = (3, 7)
ALL = [*ARCHITECTURES, *UNSUPPORTED]


def traced(architecture: str) -> tuple[nn.Module, Anatomy, dict[str, Tensor]]:
    model, inputs = tiny_model(architecture), tiny_inputs(architecture)
    return model, trace_anatomy(model, inputs), inputs


def features(
    model: nn.Module, stack: Stack, site: str, inputs: dict[str, Tensor]
) -> dict[int, Tensor]:
    """What is returned at each place, by layer."""
    places = stack.at(site)
    with watched(model, {place.module for place in places}) as seen:
        logits(model, inputs)
    return {place.layer: seen[place.module][place.execution] for place in places}


@contextmanager
def disturbed(model: nn.Module, stack: Stack, dims: Sequence[int]) -> Iterator[None]:
    """Add noise to dimensions of every layer's output and, in place, of what enters the first."""
    generator = torch.Generator().manual_seed(7)

    def noise(tensor: Tensor) -> Tensor:
        return 3 * torch.randn(*tensor.shape[:-1], len(dims), generator=generator)

    def after(_: nn.Module, __: object, output: Any) -> Any:
        first = next(floating_tensors(output))
        first[..., list(dims)] += noise(first)  # in place: whoever reads it sees it
        return output

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not entered:
            where = stack.entries[0].argument
            tensor = args[where] if isinstance(where, int) else kwargs[where]
            tensor[..., list(dims)] += noise(tensor)
            entered.append(True)

    entered: list[bool] = []
    modules = dict.fromkeys(place.module for place in stack.layers)
    handles = [model.get_submodule(name).register_forward_hook(after) for name in modules]
    entrance = model.get_submodule(stack.entries[0].module)
    handles.append(entrance.register_forward_pre_hook(before, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("architecture", ALL)
def test_features_are_zero_at_every_site_and_the_logits_feel_it(architecture: str) -> None:
    model, anatomy, inputs = traced(architecture)
    intact = logits(model, inputs)
    for stack in anatomy.stacks:
        for site in stack.available():
            with ablated(model, stack, Ablation(dims=DIMS, site=site)):
                outputs = features(model, stack, site, inputs)
                changed = logits(model, inputs)
            for output in outputs.values():
                assert (output[..., list(DIMS)] == 0).all()
                assert (output[..., 1] != 0).any()
            assert not torch.allclose(changed, intact, rtol=1e-3, atol=1e-3)
    assert torch.equal(logits(model, inputs), intact)


# The modules whose outputs a plain loop zeroes, in the words of the models' source code.
BY_HAND = {
    "bert": "bert.encoder.layer.{}",
    "deepseek-v3": "model.layers.{}",
    "doge": "model.layers.{}.mlp.down_proj",
    "doge-experts": "model.layers.{}",
    "flaubert": "transformer.layer_norm2.{}",
    "gpt-oss": "model.layers.{}",
    "granite-experts": "model.layers.{}",
    "luke": "luke.encoder.layer.{}",
    "mixtral": "model.layers.{}",
    "mobilebert": "mobilebert.encoder.layer.{}",
    "prophetnet": "prophetnet.decoder.layers.{}",
    "qwen2-moe": "model.layers.{}",
    "xlm": "transformer.layer_norm2.{}",
}
LAYERS_BY_HAND = {
    **{architecture: [name.format(n) for n in range(3)] for architecture, name in BY_HAND.items()},
    "funnel": [
        *("funnel.encoder.blocks.0.0", "funnel.encoder.blocks.1.0", "funnel.encoder.blocks.1.1"),
        "funnel.decoder.layers.0",
    ],
    "zamba2": [
        "model.layers.0.mamba.out_proj",
        *(f"model.layers.{n}.mamba_decoder.mamba.out_proj" for n in (1, 2)),
    ],
}


@pytest.mark.parametrize("architecture", LAYERS_BY_HAND)
def test_the_default_site_is_what_a_plain_loop_zeroes(architecture: str) -> None:
    def zero(_: nn.Module, __: object, output: Any) -> Any:
        first = (output if isinstance(output, Tensor) else output[0]).clone()
        for dim in DIMS:
            first[..., dim] = 0
        return first if isinstance(output, Tensor) else (first, *output[1:])

    model, anatomy, inputs = traced(architecture)
    site = "output" if "output" in anatomy.stack.available() else "residual"
    assert (site == "output") == (architecture in ARCHITECTURES)
    with ablated(model, anatomy.stack, Ablation(dims=DIMS, site=site)):
        found = logits(model, inputs)
    modules = map(model.get_submodule, LAYERS_BY_HAND[architecture])
    handles = [module.register_forward_hook(zero) for module in modules]
    assert torch.equal(logits(model, inputs), found)
    for handle in handles:
        handle.remove()
    assert not torch.allclose(logits(model, inputs), found, rtol=1e-3, atol=1e-3)


# By attention that is no part of a layer's module, or by all of the attention layers once more.
EMBEDDING_READ_ELSEWHERE = {"flaubert", "xlm", "zamba2"}


@pytest.mark.parametrize("architecture", ALL)
def test_without_its_residual_stream_a_feature_is_nothing_to_the_logits(architecture: str) -> None:
    """Whatever it was: noise added to what is ablated does not change a bit of the logits."""
    model, anatomy, inputs = traced(architecture)
    intact = logits(model, inputs)
    for stack in anatomy.stacks:
        everywhere = Ablation(dims=DIMS, site="residual", embeddings=True)
        if architecture in EMBEDDING_READ_ELSEWHERE:
            with (
                pytest.raises(UnsupportedSite, match="is read outside of its modules"),
                ablated(model, stack, everywhere),
            ):
                pass
            continue
        with ablated(model, stack, everywhere):
            expected = logits(model, inputs)
        with disturbed(model, stack, DIMS), ablated(model, stack, everywhere):
            assert torch.equal(logits(model, inputs), expected)
        with disturbed(model, stack, DIMS):
            assert not torch.allclose(logits(model, inputs), intact, rtol=1e-3, atol=1e-3)
        # It takes all layers and the embedding's output.
        for less in (
            Ablation(dims=DIMS, site="residual"),
            Ablation(dims=DIMS, site="residual", embeddings=True, layers=(0, 2)),
        ):
            with disturbed(model, stack, DIMS), ablated(model, stack, less):
                assert not torch.equal(logits(model, inputs), expected)


@pytest.mark.parametrize("architecture", ["albert", "bart", "bert", "gpt2", "llama", "t5", "xlnet"])
@pytest.mark.parametrize("site", SITES)
def test_rows_are_ablated_as_if_each_were_alone_at_every_site(architecture: str, site: str) -> None:
    model = tiny_model(architecture)
    inputs = tiny_inputs(architecture, rows=3)
    rows: list[list[int]] = [[1, 5], [], [2]]
    for stack in trace_anatomy(model, inputs).stacks:
        if site not in stack.available():
            continue
        like = Ablation(dims=(0,), site=site, mode="mean", embeddings=site == "residual")
        means = means_of(model, stack, like, inputs)
        for mode in ("zero", "mean"):
            like = Ablation(dims=(0,), site=site, mode=mode, embeddings=site == "residual")
            with ablated_rows(model, stack, rows, template=like, means=means):
                together = logits(model, inputs)
            for row, dims in enumerate(rows):
                own_inputs = {name: tensor[row : row + 1] for name, tensor in inputs.items()}
                own = Ablation(**{**like.to_dict(), "dims": tuple(dims) or (0,), "layers": None})
                if dims:
                    with ablated(model, stack, own, means):
                        alone = logits(model, own_inputs)
                else:
                    alone = logits(model, own_inputs)
                torch.testing.assert_close(together[row], alone[0], rtol=1e-4, atol=1e-4)


def means_of(
    model: nn.Module, stack: Stack, ablation: Ablation, *batches: dict[str, Tensor]
) -> Means:
    with summed(model, stack, ablation) as sums:
        for inputs in batches:
            logits(model, inputs)
    return {layer: (one.total / one.count).float() for layer, one in sums.items()}


@pytest.mark.parametrize(
    "architecture", ["albert", "bart", "bert", "gpt2", "llama", "opt", "xlnet"]
)
def test_means_are_those_of_the_intact_features_over_all_positions(architecture: str) -> None:
    model, anatomy, inputs = traced(architecture)
    other = {name: tensor[:1, :6] for name, tensor in tiny_inputs(architecture, seed=1).items()}
    for site in anatomy.stack.available():
        ablation = Ablation(dims=DIMS, site=site, mode="mean")
        means = means_of(model, anatomy.stack, ablation, inputs, other)
        batches = [features(model, anatomy.stack, site, batch) for batch in (inputs, other)]
        for layer, mean in means.items():
            rows = [row for batch in batches for row in batch[layer].reshape(-1, 16).tolist()]
            expected = torch.tensor([sum(column) / len(rows) for column in zip(*rows, strict=True)])
            torch.testing.assert_close(mean, expected, rtol=1e-4, atol=1e-5)
        with ablated(model, anatomy.stack, ablation, means):
            changed = features(model, anatomy.stack, site, inputs)
        for layer, output in changed.items():
            for dim in DIMS:
                assert (output[..., dim] == means[layer][dim]).all()


def test_the_mean_of_what_enters_the_first_layer_is_taken_too() -> None:
    model, anatomy, inputs = traced("gpt2")
    everywhere = Ablation(dims=DIMS, site="residual", mode="mean", embeddings=True)
    means = means_of(model, anatomy.stack, everywhere, inputs)
    transformer: Any = model.get_submodule("transformer")
    with torch.no_grad():
        embedded = transformer.wte(inputs["input_ids"]) + transformer.wpe(torch.arange(8))
    torch.testing.assert_close(means[EMBEDDING], embedded.mean((0, 1)), rtol=1e-4, atol=1e-5)
    seen: list[Tensor] = []
    with ablated(model, anatomy.stack, everywhere, means):
        handle = transformer.h[0].ln_1.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
        logits(model, inputs)
        handle.remove()
    for dim in range(16):
        expected = means[EMBEDDING][dim] if dim in DIMS else embedded[..., dim]
        assert torch.equal(seen[0][..., dim], expected.expand(2, 8))


def test_the_mode_mean_needs_means() -> None:
    model, anatomy, inputs = traced("bert")
    with (
        pytest.raises(ValueError, match="needs the intact model's means"),
        ablated(model, anatomy.stack, Ablation(dims=DIMS, mode="mean")),
    ):
        logits(model, inputs)


@pytest.mark.parametrize("layers", [(0,), (1, 2), None])
@pytest.mark.parametrize("site", ["output", "residual", "attention-norm"])
def test_only_the_chosen_layers_are_ablated(site: str, layers: tuple[int, ...] | None) -> None:
    model, anatomy, inputs = traced("albert")  # its layers share one module
    with ablated(model, anatomy.stack, Ablation(dims=DIMS, site=site, layers=layers)):
        outputs = features(model, anatomy.stack, site, inputs)
    for layer, output in outputs.items():
        chosen = layers is None or layer in layers
        assert (output[..., list(DIMS)] == 0).all() == chosen


def test_both_streams_of_a_permutation_language_model_are_ablated_in_the_residual() -> None:
    model, anatomy, inputs = traced("xlnet")
    target = torch.zeros(2, 1, 8)
    target[:, :, 3] = 1
    inputs |= {"perm_mask": target.expand(2, 8, 8).contiguous(), "target_mapping": target}
    seen: list[list[Tensor]] = []
    last = model.get_submodule(anatomy.stack.layers[-1].module)
    with ablated(model, anatomy.stack, Ablation(dims=DIMS, site="residual")):
        handle = last.register_forward_hook(
            lambda _, __, output: seen.append(list(floating_tensors(output)))
        )
        logits(model, inputs)
        handle.remove()
    ((words, queries),) = seen
    assert (words.shape, queries.shape) == ((8, 2, 16), (1, 2, 16))
    for stream in (words, queries):
        assert (stream[..., list(DIMS)] == 0).all()


def test_an_embedding_that_is_read_elsewhere_cannot_be_switched_off() -> None:
    class Skipping(nn.Module):
        """Adds its embedding to the logits once more, outside of any module."""

        def __init__(self) -> None:
            super().__init__()
            self.bert = tiny_model("bert")

        def forward(self, input_ids: Tensor) -> Tensor:
            bert: Any = self.bert
            x: Tensor = bert.bert.embeddings(input_ids)
            y = x
            for layer in bert.bert.encoder.layer:
                y = layer(y)
                y = y[0] if isinstance(y, tuple) else y
            return x + y

    model = Skipping().eval()
    inputs = {"input_ids": tiny_inputs("bert")["input_ids"]}
    stack = trace_anatomy(model, inputs).stack
    assert stack.entries == ()
    with (
        pytest.raises(UnsupportedSite, match="read outside of its modules"),
        ablated(model, stack, Ablation(dims=DIMS, site="residual", embeddings=True)),
    ):
        model(**inputs)


def test_a_first_layer_that_is_called_in_another_way_is_an_error() -> None:
    model, anatomy, inputs = traced("gpt2")
    block: Any = model.get_submodule("transformer.h.0")
    everywhere = Ablation(dims=DIMS, site="residual", embeddings=True)
    with (
        ablated(model, anatomy.stack, everywhere),
        pytest.raises(MeasurementError, match="handed its features in another way"),
    ):
        block(hidden_states=torch.zeros(1, 2, 16))
    assert logits(model, inputs).isfinite().all()


@pytest.mark.parametrize("architecture", sorted(SEQUENCE_TO_SEQUENCE))
def test_only_the_chosen_stack_is_ablated(architecture: str) -> None:
    model, anatomy, inputs = traced(architecture)
    encoder, decoder = anatomy.stacks
    for ablated_one, other in ((encoder, decoder), (decoder, encoder)):
        with ablated(model, ablated_one, Ablation(dims=DIMS)):
            own = features(model, ablated_one, "output", inputs)
            others = features(model, other, "output", inputs)
        assert all((output[..., list(DIMS)] == 0).all() for output in own.values())
        assert all((output[..., list(DIMS)] != 0).any() for output in others.values())
