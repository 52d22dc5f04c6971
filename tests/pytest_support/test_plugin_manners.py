"""``pytest`` where the plugin is installed: what it costs and says, asked for or not."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.plugin.plugin_support import (
    Stubs,
    error_sentence,
    in_every_state,
    run_python,
    slowly_with_workers,
    text_of,
)


@slowly_with_workers
@pytest.mark.smoke
def test_a_name_that_is_taken_is_left_to_its_owner(
    state: tuple[str, ...], lenient: pytest.Pytester, stubs: Stubs
) -> None:
    lenient.makeconftest(
        """
        def pytest_addoption(parser):
            parser.addoption("--model", default="T", help="of a Ford")

        def pytest_report_header(config):
            return f"the model is {config.getoption('--model')}"
        """
    )
    lenient.makepyfile("def test_it(): pass")
    theirs = lenient.runpytest_subprocess("--model=A", *state)
    assert theirs.ret == pytest.ExitCode.OK
    theirs.assert_outcomes(passed=1)
    theirs.stdout.fnmatch_lines(["the model is A"])
    assert "robustness:" not in text_of(theirs)

    ours = lenient.runpytest_subprocess(
        f"--robustness-model={stubs.model}", *stubs.surroundings, *state
    )
    assert ours.ret == pytest.ExitCode.OK
    ours.assert_outcomes(passed=6)
    ours.stdout.fnmatch_lines(["the model is T"])


@in_every_state
@pytest.mark.smoke
def test_without_a_model_it_is_invisible(state: tuple[str, ...], pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        def test_passes(): pass
        def test_fails(): assert False
        def test_mine(vetting): raise AssertionError("must not run")
        """
    )
    result = pytester.runpytest_subprocess(*state, "-rs", "-p", "no:cacheprovider")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=1, failed=1, skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED * needs a checkpoint: run pytest with --model=*"])
    rest = [line for line in result.outlines if not line.startswith("plugins:")]
    assert "robustness" not in "\n".join(rest)
    pytesters_own = {"__pycache__", "stdout", "stderr", "runpytest-0", "runpytest-current"}
    written = {path.name for path in pytester.path.iterdir()} - pytesters_own
    assert written == {"test_without_a_model_it_is_invisible.py"}


HEAVY = {"torch", "transformers", "datasets", "tokenizers", "huggingface_hub", "safetensors"}
IMPORTED_WITHOUT_A_MODEL = {
    "robustness",
    "robustness.plugin",
    "robustness.pytest_support",
    "robustness.pytest_support.fixtures",
    "robustness.report",
    "robustness.report.reporters",
}
LISTING_MODULES = """
import sys, pytest
code = pytest.main(sys.argv[1:])
print("modules:", *sys.modules)
sys.exit(code)
"""


def _imported(folder: Path, *args: str, ret: pytest.ExitCode) -> set[str]:
    """Modules that a run of pytest has imported."""
    (folder / "listing.py").write_text(LISTING_MODULES)
    result = run_python(folder, "listing.py", *args)
    assert result.ret == ret
    return set(result.outlines[-1].split()[1:])


def test_without_a_model_nothing_heavy_is_imported(tmp_path: Path) -> None:
    modules = _imported(tmp_path, "--collect-only", ret=pytest.ExitCode.NO_TESTS_COLLECTED)
    ours = {name for name in modules if name.partition(".")[0] == "robustness"}
    assert ours == IMPORTED_WITHOUT_A_MODEL
    heavy = {*HEAVY, "numpy", "pydantic", "filelock", "scipy"}
    assert {name.partition(".")[0] for name in modules}.isdisjoint(heavy)


def test_without_a_model_it_costs_no_start_up_time(tmp_path: Path) -> None:
    """Its own modules only: whoever is first to import argparse is charged for it.

    They are imported here as a run imports them, but by name: ``-X importtime`` does not see
    what pytest itself loads from entry points.
    """
    assert min(_own_import_ms(tmp_path) for _ in range(3)) < 10


def _own_import_ms(folder: Path) -> float:
    statement = f"import pytest, {', '.join(sorted(IMPORTED_WITHOUT_A_MODEL))}"
    result = run_python(folder, "-X", "importtime", "-c", statement)
    assert result.ret == pytest.ExitCode.OK
    entries = [line.split("|") for line in result.errlines if line.startswith("import time:")]
    spent = {name.strip(): own.partition(":")[2] for own, _, name in entries}
    return sum(float(spent[name]) for name in IMPORTED_WITHOUT_A_MODEL) / 1000


def test_a_run_from_the_store_imports_no_machine_learning(
    stubs: Stubs, tmp_path: Path, measured: dict[str, Any]
) -> None:
    del measured  # everything is in the store
    modules = _imported(tmp_path, *stubs.options, ret=pytest.ExitCode.OK)
    assert {name.partition(".")[0] for name in modules} & HEAVY == set()


def test_the_suite_without_a_model_is_a_usage_problem(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_subprocess("--pyargs", "robustness.suite")
    assert error_sentence(result) == "the packaged suite needs a checkpoint: add --model=X"


def test_help_lists_every_option(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_subprocess("--help")
    assert result.ret == pytest.ExitCode.OK
    listed = {
        word.partition("=")[0]
        for line in result.outlines
        for word in line.replace(",", " ").split()[:1]
        if word.startswith(("--robustness-", "--model", "--reference"))
    }
    assert listed == {
        "--model",
        "--reference",
        *(
            f"--robustness-{name}"
            for name in (
                "model", "corpus", "layout", "block-size", "masking", "generator", "bos",
                "context", "expectation", "rule", "stack", "site", "mode", "enable", "confidence",
                "exhaustive", "seed", "device", "dtype", "policy", "json", "store", "fresh",
                "store-limit", "baseline", "save-baseline", "plan", "shard", "github", "html",
                "examples", "task", "markdown", "allow-pickle", "base", "tokenizer",
                "reference", "change",
            )
        ),
    }  # fmt: skip
