"""Options that say how a checkpoint is read, from the command to verdicts."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from robustness.cli.app import app
from tests.support.plugin.plugin_support import (
    HIDDEN_SIZE,
    LABEL,
    Stubs,
    error_sentence,
    read_json,
    run_pytest,
    verdicts,
)

FEW = ("-k", "finite or present", "--robustness-json=report.json")


def require_verdicts(folder: Path, result: pytest.RunResult) -> list[str]:
    """Both checks have passed; returns the checkpoint's notes."""
    assert result.ret == pytest.ExitCode.OK
    report = read_json(folder / "report.json")
    assert list(verdicts(report).values()) == ["pass", "pass"]
    (checkpoint,) = report["checkpoints"]
    notes: list[str] = checkpoint["notes"]
    return notes


def test_pickles_are_vetted_and_scanned_where_that_is_allowed(stubs: Stubs, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    folder = shutil.copytree(stubs.model, tmp_path / LABEL)
    weights = folder / "model.safetensors"
    torch.save(load_file(weights), folder / "pytorch_model.bin")
    weights.unlink()
    options = (f"--model={folder}", *stubs.surroundings, *FEW)
    assert "--robustness-allow-pickle" in error_sentence(run_pytest(tmp_path, *options))
    result = run_pytest(tmp_path, *options, "--robustness-allow-pickle")
    assert "pickled, and were converted" in " ".join(require_verdicts(tmp_path, result))

    scan = ["scan", str(folder), f"--store={stubs.store}", "--json"]
    refused = CliRunner().invoke(app, scan)
    assert (refused.exit_code, "--allow-pickle" in refused.output) == (2, True)
    assert CliRunner().invoke(app, [*scan, "--allow-pickle"]).exit_code == 0


@pytest.mark.slow
def test_a_tokenizer_can_be_named(stubs: Stubs, tmp_path: Path) -> None:
    folder = shutil.copytree(stubs.model, tmp_path / LABEL)
    for file in [*folder.glob("*token*"), *folder.glob("vocab*")]:
        file.unlink()
    options = (f"--model={folder}", *stubs.surroundings, *FEW)
    assert "has no tokenizer" in error_sentence(run_pytest(tmp_path, *options))
    result = run_pytest(tmp_path, *options, f"--robustness-tokenizer={stubs.plain}")
    assert f"that of {stubs.plain}" in " ".join(require_verdicts(tmp_path, result))


@pytest.mark.slow
def test_the_base_of_an_adapter_can_be_named(stubs: Stubs, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    import torch
    from safetensors.torch import save_file

    folder = tmp_path / LABEL
    folder.mkdir()
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["query"]}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    start = "base_model.model.bert.encoder.layer.{}.attention.self.query.lora_{}.weight"
    shapes = {"A": (2, HIDDEN_SIZE), "B": (HIDDEN_SIZE, 2)}
    factors = {
        start.format(layer, which): torch.full(shape, 0.01)
        for layer in range(2)
        for which, shape in shapes.items()
    }
    save_file(factors, folder / "adapter_model.safetensors")
    options = (f"--model={folder}", *stubs.surroundings, *FEW)
    assert "--robustness-base=REF" in error_sentence(run_pytest(tmp_path, *options))
    result = run_pytest(tmp_path, *options, f"--robustness-base={stubs.model}")
    assert "adapter" in " ".join(require_verdicts(tmp_path, result))
