"""Checkpoints of the Hub as a CI job meets them: vetted once online, and again without network."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.support.checkpoints.checkpoint_folders import tiny_model
from tests.support.checkpoints.gguf_files import TOKENS, write_llama_gguf
from tests.support.checkpoints.hub_stub import Repository, model_hub
from tests.support.plugin.plugin_support import Stubs, checks, read_json, verdicts

pytestmark = pytest.mark.slow  # each run is a new Python, whose environment names the Hub

COMMIT = "b" * 40
OUTLIER = 5


def of(files: dict[str, bytes]) -> Repository:
    return Repository(commits={COMMIT: files}, refs={"main": COMMIT})


def pickled(folder: Path) -> dict[str, bytes]:
    """A checkpoint's files with its weights in a pickle instead of safetensors."""
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    torch.save(load_file(folder / "model.safetensors"), folder.parent / "pickle")
    del files["model.safetensors"]
    return {**files, "pytorch_model.bin": (folder.parent / "pickle").read_bytes()}


def ggufs(folder: Path) -> dict[str, bytes]:
    """A Llama with an outlier dimension in a repository with another quantisation of it."""
    model = tiny_model(
        "LlamaForCausalLM",
        vocab_size=len(TOKENS),
        hidden_size=32,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.down_proj.weight[OUTLIER] *= 30
    file = write_llama_gguf(folder / "tiny.gguf", model)
    content = file.read_bytes()
    return {"README.md": b"", "tiny-Q4_K_M.gguf": content, "tiny-IQ4_K_M.gguf": b"GGUF, another"}


class Job:
    """Runs of pytest on checkpoints of a Hub, with a cache of their own."""

    def __init__(self, folder: Path, address: str, asked: list[str]) -> None:
        self.folder, self.address, self.asked = folder, address, asked

    def run(self, *options: str, offline: bool = False) -> subprocess.CompletedProcess[str]:
        left_out = ("PYTEST_", "HF_", "XDG_")
        kept = {name: text for name, text in os.environ.items() if not name.startswith(left_out)}
        hub = {"HF_ENDPOINT": self.address, "HF_HUB_OFFLINE": str(int(offline))}
        report = ("--robustness-store=store", "--robustness-json=report.json")
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options, *report],
            cwd=self.folder,
            env={**kept, **hub, "HOME": str(self.folder), "HF_HUB_DISABLE_TELEMETRY": "1"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )


@pytest.fixture
def job(stubs: Stubs, tmp_path: Path) -> Iterator[Job]:
    files = {"org/pickled": of(pickled(stubs.model)), "org/ggufs": of(ggufs(tmp_path))}
    with model_hub(files) as server:
        yield Job(tmp_path, *server)


def test_a_pickle_of_the_hub_is_vetted_where_that_is_allowed(job: Job, stubs: Stubs) -> None:
    options = ("--model=org/pickled", f"--robustness-corpus={stubs.corpus}")
    refused = job.run(*options)
    assert refused.returncode == pytest.ExitCode.USAGE_ERROR
    assert "org/pickled has no safetensors weights on the Hub: --robustness-allow-pickle" in (
        refused.stderr
    )
    allowed = job.run(*options, "--robustness-allow-pickle")
    assert allowed.returncode == 0, allowed.stdout + allowed.stderr
    report = read_json(job.folder / "report.json")
    (checkpoint,) = report["checkpoints"]
    assert checkpoint["revision"] == COMMIT
    assert "its weights are pickled, and were converted" in "".join(checkpoint["notes"])
    asked = len(job.asked)
    again = job.run(*options, "--robustness-allow-pickle", offline=True)
    assert again.returncode == 0, again.stdout + again.stderr
    assert len(job.asked) == asked
    assert checks(read_json(job.folder / "report.json")) == checks(report)


def test_a_gguf_of_the_hub_is_vetted_by_its_quantisation(job: Job) -> None:
    """The file of another quantisation, whose name holds that of this one, is not even fetched."""
    run = job.run("--model=org/ggufs:Q4_K_M")
    assert run.returncode == pytest.ExitCode.TESTS_FAILED, run.stdout + run.stderr
    report = read_json(job.folder / "report.json")
    (checkpoint,) = report["checkpoints"]
    assert (checkpoint["revision"], checkpoint["architecture"]) == (COMMIT, "LlamaForCausalLM")
    assert [outlier["dim"] for outlier in checkpoint["outliers"]] == [OUTLIER]
    found = checks(report)
    assert sum("outliers_are_present" in name for name in found) == 1
    assert len(found) == 6
    assert not {"error", "inconclusive"} & set(verdicts(report).values())  # all was measured
    assert report["problems"] == []
    assert not any("IQ4_K_M" in asked for asked in job.asked)
    named = job.run("--model=org/ggufs/tiny-Q4_K_M.gguf", offline=True)
    assert named.returncode == pytest.ExitCode.TESTS_FAILED
    again = checks(read_json(job.folder / "report.json"))
    measured = [[check["measured"] for check in each.values()] for each in (found, again)]
    assert measured[0] == measured[1]
