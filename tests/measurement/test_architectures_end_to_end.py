"""Encoder-decoder models and mixtures of experts, from a folder to verdicts.

Small random models: what is compared are the numbers behind the verdicts, with a plain loop that
zeroes parameters of a copy (or the features themselves) and uses no ablation of the package.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from robustness.ablation.ablation import Ablation
from robustness.ablation.interventions import FixedAblation, Intact, PerBlockAblation
from robustness.anatomy.stacks import READING_NORMS
from robustness.errors import RobustnessError
from robustness.policy.policy import load_policy
from robustness.run.planning import make_plan
from robustness.scoring.forward import Scorer
from robustness.store.context import Context
from robustness.vetting import Vetting
from tests.support.checkpoints.checkpoint_folders import save_checkpoint
from tests.support.checkpoints.tiny_models import ARCHITECTURES, tiny_model

VOCABULARY = 64
SPECIAL = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
SENTINELS = [f"<extra_id_{n}>" for n in range(7)]
DIMS = (3, 7)


def tokenizer(*, sentinels: bool) -> Any:
    """Words, with T5's sentinels behind them or BART's mask token."""
    last = SENTINELS if sentinels else ["<mask>"]
    words = [f"w{n}" for n in range(VOCABULARY - len(SPECIAL) - len(last))]
    names = [*SPECIAL.values(), *words, *last]
    backend = Tokenizer(models.WordLevel({name: n for n, name in enumerate(names)}, "<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    template = "$A </s>" if sentinels else "<s> $A </s>"
    backend.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    more: dict[str, Any] = (
        {"extra_special_tokens": SENTINELS} if sentinels else {"mask_token": "<mask>"}
    )
    cls: Any = PreTrainedTokenizerFast  # partly untyped
    return cls(tokenizer_object=backend, **SPECIAL, **more)


Make = Callable[..., Vetting]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Plan a tiny model of an architecture, as a run does, and vet it."""
    text = tmp_path / "text.txt"
    rng = np.random.default_rng(0)
    text.write_text(" ".join(f"w{n}" for n in rng.integers(0, 50, 1200)))

    def vetted(architecture: str, **options: Any) -> Vetting:
        folder = tmp_path / architecture
        if not folder.exists():
            found = tokenizer(sentinels="t5" in architecture)
            save_checkpoint(folder, tiny_model(architecture, n_layers=3), found)
        known = {"corpus": str(text), "block_size": 24, "rules": {"busters": {"k": 1.0}}}
        policy = load_policy(None, options={**known, **options})
        store = tmp_path / "store"
        (planned,) = make_plan([str(folder)], policy, Context(root=store)).checkpoints
        return Vetting(
            checkpoint=planned.load(),
            settings=planned.settings,
            model_profile=planned.model_profile,
            context=Context(root=store),
        )

    return vetted


def _without(model: Any, stack: str, dims: tuple[int, ...]) -> None:
    """Zero what writes the dimensions at the end of every layer of one stack, in place."""
    layers = (getattr(model, "model", model)).get_submodule(stack)
    with torch.no_grad():
        for layer in layers:
            if hasattr(layer, "final_layer_norm"):  # BART's, post-norm
                layer.final_layer_norm.weight[list(dims)] = 0
                layer.final_layer_norm.bias[list(dims)] = 0
            else:  # T5's
                layer.layer[-1].DenseReluDense.wo.weight[list(dims)] = 0


@pytest.mark.parametrize(
    ("architecture", "layers"), [("bart", "layers"), ("t5", "block"), ("t5-gated", "block")]
)
@pytest.mark.parametrize("stack", ["auto", "encoder"])
def test_each_stack_of_an_encoder_decoder_is_ablated_alone(
    architecture: str, layers: str, stack: str, make: Make
) -> None:
    vetting = make(architecture, stack=stack)
    role = "encoder" if stack == "encoder" else "decoder"
    assert vetting.model_profile.stack == role
    assert vetting.checkpoint.scoring == "seq2seq"
    measurement = vetting.measurement
    intact, ablated = measurement.chunk(0, Intact(), FixedAblation(ablation=Ablation(dims=DIMS)))
    model = vetting.checkpoint.load_model()
    rows = measurement.scoring_plan.chunk(0).rows
    assert intact.nll_nats == pytest.approx(
        [Scorer(model).nll_nats([r])[0] for r in rows], rel=1e-5
    )
    _without(model, f"{role}.{layers}", DIMS)
    plain = [Scorer(model).nll_nats([row])[0] for row in rows]
    assert ablated.nll_nats == pytest.approx(plain, rel=1e-5)
    assert not np.allclose(ablated.nll_nats, intact.nll_nats, rtol=1e-6)
    assert vetting.ablate(DIMS).is_harmless(within=5.0)


OTHERWISE = {
    "jamba": "two layers are not enough for it: they are of different kinds",
    "qwen2": "transformers puts a tokenizer of its own in the place of this one",
}


@pytest.mark.slow
@pytest.mark.parametrize("architecture", sorted(set(ARCHITECTURES) - set(OTHERWISE)))
def test_every_architecture_goes_from_a_folder_to_the_same_numbers_in_rows(
    architecture: str, make: Make
) -> None:
    """Saved, verified, traced, scored as it was trained, ablated as a whole and row by row."""
    measurement = make(architecture).measurement
    ablation = Ablation(dims=DIMS[:1])
    rows = PerBlockAblation(template=ablation, dims=(ablation.dims,) * 16)
    intact, fixed, control = measurement.chunk(0, Intact(), FixedAblation(ablation=ablation), rows)
    assert control.nll_nats == pytest.approx(fixed.nll_nats, rel=1e-5)
    assert not np.allclose(fixed.nll_nats, intact.nll_nats, rtol=1e-9)


def test_a_mixture_of_experts_is_vetted_by_activations_at_the_residual_site(make: Make) -> None:
    rules = {"massive": {"threshold": 1e-3, "median_factor": 3.0}}
    vetting = make("mixtral", rule="massive", rules=rules, site="residual")
    assert vetting.model_profile.sites == ("residual",)
    found = vetting.outliers().dims
    assert found
    model = vetting.checkpoint.load_model()
    with torch.no_grad():
        ids = torch.tensor(
            np.array([row.ids for row in vetting.measurement.scoring_plan.chunk(0).rows])
        )
        states = model(input_ids=ids, output_hidden_states=True).hidden_states[1:-1]
    # The largest of all values behind a layer is beyond any fixed share of the median.
    largest = max(states, key=lambda state: float(state.abs().max())).abs().amax((0, 1))
    assert int(largest.argmax()) in found
    assert vetting.ablate(found[:1]).is_harmless(within=50.0)


def test_the_default_run_of_a_mixture_of_experts_ablates_its_residual_stream(
    make: Make, tmp_path: Path
) -> None:
    vetting = make("mixtral")
    assert vetting.settings.site == "residual"
    layers = vetting.checkpoint.load_model().model.layers
    scales = torch.stack([layer.post_attention_layernorm.weight for layer in layers]).double()
    far = (scales - scales.mean(1, keepdim=True)).abs() > scales.std(1, keepdim=True)  # k = 1
    found = vetting.outliers().dims
    assert found == tuple(torch.nonzero(far.sum(0) >= 2).flatten().tolist())
    assert vetting.ablate(found).ablation.site == "residual"
    assert vetting.ablate(found).is_harmless(within=50.0)
    policy = load_policy(None, options={"corpus": str(tmp_path / "text.txt"), "block_size": 24})
    context = Context(root=tmp_path / "store")
    (planned,) = make_plan([str(tmp_path / "mixtral")], policy, context).checkpoints
    assert f"{READING_NORMS}, and dimensions are ablated at the site residual" in planned.notes


def test_a_mixture_of_experts_has_no_output_site_if_that_is_asked_for(make: Make) -> None:
    with pytest.raises(RobustnessError, match="'residual' can be ablated"):
        make("mixtral", site="output")
