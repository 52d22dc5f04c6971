"""Vetting beside the pytest plugins that are most often installed; run by ``tox -e plugins``."""

import re
from importlib.metadata import PackageNotFoundError, version

import pytest

from tests.support.plugin.plugin_support import (
    DIM,
    LABEL,
    SUITE,
    Stubs,
    lasting,
    run_suite,
    text_of,
    with_and_without_workers,
)

PLUGINS = ("pytest-cov", "pytest-html", "pytest-randomly", "pytest-rerunfailures", "pytest-split",
           "pytest-timeout")  # fmt: skip


def missing() -> list[str]:
    """Names of those that are not installed."""
    found = []
    for name in PLUGINS:
        try:
            version(name)
        except PackageNotFoundError:
            found.append(name)
    return found


pytestmark = pytest.mark.skipif(bool(missing()), reason=f"needs {', '.join(missing())}")

JOINT = f"robustness/test_outliers.py::test_joint_ablation_degrades[{LABEL}-dim{DIM}]"
ALL_OF_THEM = (
    "--timeout=300", "--html=report.html", "--self-contained-html", "--cov=robustness",
    "--cov-report=", "--reruns=2", "-p", "randomly", "-p", "no:cacheprovider",
)  # fmt: skip


@with_and_without_workers
def test_all_of_them_together_change_nothing(
    state: tuple[str, ...], stubs: Stubs, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("plugins")
    plain = run_suite(folder / "plain", *stubs.options, "-p", "no:randomly")
    with_them = run_suite(folder / "with", *stubs.options, *state, *ALL_OF_THEM)
    assert with_them.result.ret == pytest.ExitCode.OK
    assert set(with_them.verdicts) == SUITE
    assert with_them.properties.keys() == plain.properties.keys()
    if not state:
        assert lasting(with_them.facts) == lasting(plain.facts)
    assert "RERUN" not in text_of(with_them.result)
    assert (folder / "with" / "report.html").stat().st_size > 1000


@with_and_without_workers
def test_a_failure_stays_one_however_often_it_is_run_again(
    state: tuple[str, ...], stubs: Stubs, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("plugins")
    (folder / "robustness.toml").write_text(
        "[checks.joint_ablation_degrades]\nmin_ratio = 1000.0\n"
    )
    run = run_suite(folder, *stubs.options, *state, *ALL_OF_THEM)
    assert run.result.ret == pytest.ExitCode.TESTS_FAILED
    assert run.verdicts == {**dict.fromkeys(SUITE, "pass"), JOINT: "fail"}
    assert run.facts["problems"] == []
    assert re.search(r"1 failed, 5 passed.* 2 rerun", text_of(run.result))


def test_a_part_of_the_tests_is_a_partial_run(
    stubs: Stubs, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("plugins")
    run = run_suite(folder, *stubs.options, *ALL_OF_THEM, "--splits=2", "--group=1")
    assert run.result.ret == pytest.ExitCode.OK
    assert run.facts["partial"]
    assert not run.facts["passed"]
