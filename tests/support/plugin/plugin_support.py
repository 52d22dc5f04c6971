"""Stub checkpoints that are measured in milliseconds, and pytest run on them in a subprocess."""

import json
import os
import random
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from tests.support.plugin.warm_python import warm_python

VOCABULARY = 64
N_SPECIAL = 5
HIDDEN_SIZE = 32
LABEL = "checkpoint-9000"
DIM, OTHER_DIM = 7, 11

STATES = {"active": ("-n", "2"), "idle": (), "off": ("-p", "no:xdist")}
"""xdist with workers; xdist installed but not asked for; no xdist."""

in_every_state = pytest.mark.parametrize(
    "state", [pytest.param(options, id=name) for name, options in STATES.items()]
)
without_xdist = pytest.param(STATES["off"], id="off", marks=pytest.mark.slow)
with_and_without_workers = pytest.mark.parametrize(
    "state",
    [*(pytest.param(STATES[name], id=name) for name in ("active", "idle")), without_xdist],
)
slowly_with_workers = pytest.mark.parametrize(
    "state",
    [
        pytest.param(STATES["active"], id="active", marks=pytest.mark.slow),
        pytest.param(STATES["idle"], id="idle"),
        without_xdist,
    ],
)
"""Where workers have no part in what is tested, and a run costs three times as much with them."""

SUITE = {
    f"robustness/test_weights.py::test_weights_are_finite[{LABEL}]",
    f"robustness/test_outliers.py::test_outliers_are_present[{LABEL}]",
    f"robustness/test_outliers.py::test_ablation_degrades[{LABEL}-dim{DIM}]",
    f"robustness/test_outliers.py::test_joint_ablation_degrades[{LABEL}-dim{DIM}]",
    f"robustness/test_controls.py::test_random_ablation_is_harmless[{LABEL}-1random]",
    f"robustness/test_controls.py::test_outliers_matter_more_than_chance[{LABEL}-dim{DIM}]",
}
"""Ids of the packaged suite on the stub with outlier dimension 7."""


@dataclass(frozen=True, kw_only=True)
class Stubs:
    """Stub checkpoints, a corpus, and a store that tests share, so that most measure nothing."""

    root: Path

    @property
    def model(self) -> Path:
        """A masked language model that knows nothing without its dimension 7."""
        return self.root / "a" / LABEL

    @property
    def other(self) -> Path:
        """Another one with the same name; here it is dimension 11."""
        return self.root / "b" / LABEL

    @property
    def plain(self) -> Path:
        """A masked language model without outlier dimensions."""
        return self.root / "plain"

    @property
    def corpus(self) -> Path:
        return self.root / "corpus.txt"

    @property
    def store(self) -> Path:
        return self.root / "store"

    @property
    def surroundings(self) -> tuple[str, ...]:
        """Options that say where the text and the store are."""
        return (f"--robustness-corpus={self.corpus}", f"--robustness-store={self.store}")

    @property
    def options(self) -> tuple[str, ...]:
        """What vets ``model``."""
        return (f"--model={self.model}", *self.surroundings)


@pytest.fixture(scope="session")
def stubs(tmp_path_factory: pytest.TempPathFactory) -> Stubs:
    """Built once per process."""
    found = Stubs(root=tmp_path_factory.getbasetemp() / "stubs")
    save_stub(found.model, DIM)
    save_stub(found.other, OTHER_DIM)
    save_stub(found.plain, None)
    found.corpus.write_text(zipf_text(20_000))
    return found


def save_stub(folder: Path, dim: int | None) -> Path:
    """A random BERT whose head reads the frequencies of words off one dimension.

    That dimension is an outlier by scale and bias in both layers. Without it the model guesses
    uniformly; any other dimension matters little. Without any dimension given, the frequencies
    are in the bias of the head.
    """
    # Not on top: every process of a test run reads this module, its controller included.
    import torch

    from tests.support.checkpoints.checkpoint_folders import (
        save_checkpoint,
        tiny_model,
        tiny_tokenizer,
    )

    model = tiny_model(
        "BertForMaskedLM",
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN_SIZE,
        max_position_embeddings=130,
    )
    generator = torch.Generator().manual_seed(1)
    log_frequencies = torch.tensor([1e-3] * N_SPECIAL + word_frequencies()).log()
    embeddings = model.bert.embeddings.word_embeddings.weight  # the decoder's weights, too
    with torch.no_grad():
        for layer in model.bert.encoder.layer:
            norm = layer.output.LayerNorm
            norm.weight.add_(0.01 * torch.randn(HIDDEN_SIZE, generator=generator))
            norm.bias.add_(0.01 * torch.randn(HIDDEN_SIZE, generator=generator))
            if dim is not None:
                norm.weight[dim], norm.bias[dim] = 0.1, 10.0
        if dim is None:
            model.cls.predictions.bias.copy_(log_frequencies)
        else:
            dense = model.cls.predictions.transform.dense
            dense.weight.copy_(torch.eye(HIDDEN_SIZE))
            dense.bias.zero_()
            # The other features add a little to what the words' frequencies are read off:
            # ablating one does a little harm.
            norm.bias[torch.arange(HIDDEN_SIZE) != dim] += 1.0
            embeddings.add_(0.02 * log_frequencies[:, None])
            embeddings[:, dim] = log_frequencies / 8
    return save_checkpoint(folder, model, tiny_tokenizer(VOCABULARY))


def word_frequencies() -> list[float]:
    weights = [1 / rank**1.3 for rank in range(1, VOCABULARY - N_SPECIAL + 1)]
    return [weight / sum(weights) for weight in weights]


def zipf_text(n_words: int) -> str:
    """Independent words of the tokenizer's vocabulary, some far more frequent than others."""
    words = [f"w{n}" for n in range(VOCABULARY - N_SPECIAL)]
    drawn = random.Random(0).choices(words, word_frequencies(), k=n_words)
    return "\n".join(" ".join(drawn[start : start + 25]) for start in range(0, n_words, 25))


# --- running -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """A run of pytest in a folder of its own that wrote every report."""

    result: pytest.RunResult
    folder: Path

    @cached_property
    def facts(self) -> dict[str, Any]:
        """The JSON report."""
        return read_json(self.folder / "report.json")

    @property
    def verdicts(self) -> dict[str, str]:
        return verdicts(self.facts)

    @cached_property
    def properties(self) -> dict[str, dict[str, str]]:
        """JUnit properties per test name."""
        return junit_properties(self.folder / "junit.xml")


def run_pytest(folder: Path, *args: str, python: str | None = None) -> pytest.RunResult:
    """Like ``pytester.runpytest_subprocess``, in a fixture of any scope."""
    return run_python(folder, "-m", "pytest", *args, python=python or warm_python())


def run_python(folder: Path, *args: str, python: str = sys.executable) -> pytest.RunResult:
    """Python in a subprocess, started in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = {name: text for name, text in os.environ.items() if not name.startswith("PYTEST_")}
    started = time.monotonic()
    process = subprocess.run(
        [python, *args],
        cwd=folder,
        env={**kept, "HOME": str(folder), "HF_HUB_OFFLINE": "1", "PY_COLORS": "0"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    sys.stdout.write(process.stdout)  # shown if a test fails, as pytester does
    sys.stderr.write(process.stderr)
    lines = process.stdout.splitlines(), process.stderr.splitlines()
    return pytest.RunResult(process.returncode, *lines, time.monotonic() - started)


def scanned_lightly(*options: str) -> str:
    """What ``robustness scan`` prints, in a process of its own that imports nothing heavy."""
    code = (
        "import sys; from robustness.cli.app import app\n"
        f"try: app(['scan', *{options!r}])\n"
        "finally: print(sorted({'torch', 'transformers', 'datasets', 'pytest'} & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    return done.stdout


def run_suite(folder: Path, *args: str, python: str | None = None) -> Run:
    """Run with all reports."""
    reports = ("--robustness-json=report.json", "--junitxml=junit.xml")
    return Run(run_pytest(folder, *args, *reports, python=python), folder)


def read_json(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def checks(facts: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Decided checks by test id."""
    return {
        check["id"]: check for checkpoint in facts["checkpoints"] for check in checkpoint["checks"]
    }


def verdicts(facts: Mapping[str, Any]) -> dict[str, str]:
    return {name: check["outcome"] for name, check in checks(facts).items()}


def lasting(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON report without what differs between any two runs."""
    differs = ("started", "duration_s", "command")
    return {key: value for key, value in facts.items() if key not in differs}


def junit_properties(file: Path) -> dict[str, dict[str, str]]:
    return {
        case.attrib["name"]: {p.attrib["name"]: p.attrib["value"] for p in case.iter("property")}
        for case in ET.parse(file).iter("testcase")
    }


def text_of(result: pytest.RunResult) -> str:
    """Everything it wrote."""
    return "\n".join([*result.outlines, *result.errlines])


def error_sentence(result: pytest.RunResult) -> str:
    """The one sentence that a usage problem consists of."""
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    text = text_of(result)
    assert "Traceback" not in text
    assert "INTERNALERROR" not in text
    errors = [line for line in text.splitlines() if line.startswith("ERROR: ")]
    assert len(errors) == 1
    assert "passed" not in text
    return errors[0].removeprefix("ERROR: ")
