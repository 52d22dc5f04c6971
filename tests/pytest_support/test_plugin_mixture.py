"""Mixtures of experts as a user meets them: a baseline saved and compared with, a run traced.

No dense layer writes their layers' output, so dimensions are found where norms read the residual
stream, and ablated in it.
"""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from robustness.anatomy.stacks import READING_NORMS
from robustness.cli.app import app
from tests.support.checkpoints.checkpoint_folders import save_checkpoint, tiny_tokenizer
from tests.support.checkpoints.tiny_models import tiny_model
from tests.support.plugin.plugin_support import (
    DIM,
    HIDDEN_SIZE,
    N_SPECIAL,
    OTHER_DIM,
    VOCABULARY,
    checks,
    run_suite,
    slowly_with_workers,
    word_frequencies,
    zipf_text,
)
from tests.support.records import reference

BLOCKS = 32
STEPS: dict[int, int | None] = {100: None, 2000: DIM}


def save_mixture(folder: Path, dim: int | None) -> Path:
    """A random Mixtral whose head reads the frequencies of words off one dimension, or nothing."""
    model: Any = tiny_model("mixtral", n_layers=3, hidden_size=HIDDEN_SIZE)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for layer in model.model.layers:
            norm = layer.post_attention_layernorm.weight
            norm.copy_(1 + 0.01 * torch.randn(HIDDEN_SIZE, generator=generator))
            if dim is not None:
                norm[dim] = 3.0
        model.lm_head.weight.mul_(0.1)
        if dim is not None:
            model.model.embed_tokens.weight[:, dim] = 50.0
            model.model.norm.weight[dim] = 1.0
            log_frequencies = torch.tensor([1e-3] * N_SPECIAL + word_frequencies()).log()
            model.lm_head.weight[:, dim] = log_frequencies / math.sqrt(HIDDEN_SIZE)
    return save_checkpoint(folder, model, tiny_tokenizer(VOCABULARY))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two checkpoints, and a text."""
    root = tmp_path_factory.mktemp("mixtures")
    for step, dim in STEPS.items():
        save_mixture(root / "run" / f"checkpoint-{step}", dim)
    (root / "text.txt").write_text(zipf_text(12_000))
    return root


def options(place: Path, step: int) -> tuple[str, ...]:
    return (
        f"--model={place / 'run' / f'checkpoint-{step}'}",
        f"--robustness-corpus={place / 'text.txt'}",
        f"--robustness-store={place / 'store'}",
    )


@pytest.fixture(scope="module")
def saved(place: Path) -> Path:
    run = run_suite(place / "saved", *options(place, 2000), "--robustness-save-baseline=base.json")
    assert run.result.ret == 0
    (found,) = run.facts["checkpoints"]
    assert (found["site"], [one["dim"] for one in found["outliers"]]) == ("residual", [DIM])
    assert any(READING_NORMS in note for note in found["notes"])
    return place / "saved" / "base.json"


@slowly_with_workers
def test_a_mixture_matches_its_own_baseline(
    state: tuple[str, ...], saved: Path, place: Path, tmp_path: Path
) -> None:
    run = run_suite(tmp_path, *options(place, 2000), f"--robustness-baseline={saved}", *state)
    assert run.result.ret == 0
    compared = {k: v for k, v in checks(run.facts).items() if "_kept[" in k}
    compared = {k: v for k, v in compared.items() if v["outcome"] != "not applicable"}
    assert {check["outcome"] for check in compared.values()} == {"pass"}
    measured = [c["measured"] for c in compared.values() if c["measured"] is not None]
    assert len(compared) == 3
    assert measured == [1.0, 1.0]


def test_another_mixture_does_not_match_it(saved: Path, place: Path, tmp_path: Path) -> None:
    found = options(place, 2000)
    other = save_mixture(tmp_path / "checkpoint-2000", OTHER_DIM)
    run = run_suite(tmp_path, f"--model={other}", *found[1:], f"--robustness-baseline={saved}")
    assert run.result.ret == 1
    outcomes = {k: v["outcome"] for k, v in checks(run.facts).items() if "_kept[" in k}
    assert next(v for k, v in outcomes.items() if k.endswith("-outliers]")) == "fail"


def plain_loop(folder: Path, text: Path, dims: list[int]) -> tuple[float, int]:
    """Log perplexity and scored tokens, the dimensions being zeroed in what each layer returns."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    checkpoint = reference.Checkpoint(
        model=model.eval(),
        tokenizer=AutoTokenizer.from_pretrained(folder),
        kind="causal",
    )

    def zero(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
        output = output.clone()
        output[..., dims] = 0
        return output

    for layer in checkpoint.model.model.layers:
        layer.register_forward_hook(zero)
    texts = reference.read_corpus(str(text), "packed")
    blocks = reference.text_blocks(texts, "packed", checkpoint.tokenizer, 40)
    fingerprint = reference.fingerprint(texts, "packed")
    order = reference.measurement_order(len(blocks), 0, fingerprint)[:BLOCKS]
    scored = [reference.nll_of_block(checkpoint, blocks[n], 0, fingerprint) for n in order]
    return reference.log_perplexity(scored), sum(tokens for _, tokens in scored)


def test_a_run_of_mixtures_is_traced_and_measured_in_the_residual_stream(place: Path) -> None:
    result = CliRunner().invoke(
        app,
        [
            "trace", str(place / "run"), f"--store={place / 'store'}", f"--text-blocks={BLOCKS}",
            f"--corpus={place / 'text.txt'}", "--measure=all", "--json",
        ],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert [step["dims"] for step in facts["steps"]] == [[], [DIM]]
    assert facts["dimensions"][0]["emerged"] == "checkpoint-2000"
    assert facts["measurement"]["site"] == "residual"
    for step in facts["steps"]:
        folder = place / "run" / f"checkpoint-{step['step']}"
        found = step["measured"]
        intact, tokens = plain_loop(folder, place / "text.txt", [])
        without, _ = plain_loop(folder, place / "text.txt", [DIM])
        assert found["tokens"] == tokens
        assert found["figure"] == pytest.approx(math.exp(intact), rel=1e-5)
        assert found["joint"]["ratio"] == pytest.approx(math.exp(without - intact), rel=1e-5)
    assert facts["steps"][1]["measured"]["joint"]["ratio"] > 2
