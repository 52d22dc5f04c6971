"""The packaged suite on a stub: a run that tests share, and folders with policies for others."""

from typing import Any

import pytest

from tests.support.plugin.plugin_support import (
    DIM,
    LABEL,
    Stubs,
    run_suite,
)

JOINT = f"robustness/test_outliers.py::test_joint_ablation_degrades[{LABEL}-dim{DIM}]"
SINGLE = f"robustness/test_outliers.py::test_ablation_degrades[{LABEL}-dim{DIM}]"
FINITE = f"robustness/test_weights.py::test_weights_are_finite[{LABEL}]"
PRESENT = f"robustness/test_outliers.py::test_outliers_are_present[{LABEL}]"
NO_VERDICT = f"{JOINT} was collected but gave no verdict"
NESTED_FAR_TOO_STRICT = "checks.joint_ablation_degrades.min_ratio = 1000.0\n"
FAR_TOO_STRICT = "[checks.joint_ablation_degrades]\nmin_ratio = 1000.0\n"


@pytest.fixture(scope="session")
def measured(stubs: Stubs) -> dict[str, Any]:
    """The JSON report of the suite on the stub, run once per process: all of it is in the store."""
    return run_suite(stubs.root / "measured", *stubs.options).facts


@pytest.fixture
def strict(
    pytester: pytest.Pytester, measured: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> pytest.Pytester:
    """An empty folder but for a policy under which the joint ablation fails."""
    del measured  # what the tests need is in the store
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (pytester.path / "robustness.toml").write_text(FAR_TOO_STRICT)
    return pytester


@pytest.fixture
def lenient(strict: pytest.Pytester) -> pytest.Pytester:
    """An empty folder; all verdicts pass."""
    (strict.path / "robustness.toml").unlink()
    return strict


def literal(text: str) -> str:
    """The text as a pattern that matches nothing else."""
    return text.replace("[", "[[]")
