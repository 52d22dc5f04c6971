"""Where a policy comes from, and which of several settings wins."""

from pathlib import Path
from typing import Any

import pytest

from robustness.errors import PolicyError
from robustness.policy.policy import load_policy
from robustness.policy.settings import Settings
from tests.support.plugin.plugin_support import (
    LABEL,
    Stubs,
    in_every_state,
    read_json,
    run_pytest,
    text_of,
)
from tests.support.records.policy_files import policy

# --- where settings come from --------------------------------------------------------------------


def test_without_a_file_the_defaults_hold(tmp_path: Path) -> None:
    found = load_policy(None, folders=[tmp_path])
    assert found.confidence == 0.99
    assert found.source is None
    settings = found.settings("any/checkpoint", "checkpoint")
    assert settings == Settings()
    assert settings.expectation == "paper"
    assert (settings.rules.busters.k, settings.rules.busters.min_layer_share) == (3, 0.5)
    checks: Any = settings.checks
    assert checks.ablation_degrades.min_ratio == 1.05
    assert checks.joint_ablation_degrades.min_ratio == 1.5
    assert checks.random_ablation_is_harmless.max_ratio == 1.10
    assert checks.outliers_matter_more_than_chance.factor == 5
    assert (checks.outliers_are_present.min, checks.outliers_are_present.max) == (1, 16)
    assert not checks.magnitude_alone_is_harmless.enabled


def test_robustness_toml_may_hold_the_settings_at_its_top(tmp_path: Path) -> None:
    found = policy(
        tmp_path, "confidence = 0.9\nseed = 7\n[checks.ablation_degrades]\nmin_ratio = 2.0\n"
    )
    assert found.confidence == 0.9
    assert found.source == str(tmp_path / "robustness.toml")
    settings = found.settings("x")
    assert settings.seed == 7
    checks: Any = settings.checks
    assert checks.ablation_degrades.min_ratio == 2
    assert checks.ablation_degrades.max_ratio == 1.10


@pytest.mark.parametrize("name", ["robustness.toml", "pyproject.toml"])
def test_both_files_may_hold_them_in_their_table(name: str, tmp_path: Path) -> None:
    text = '[tool.other]\nx = 1\n[tool.robustness]\nexpectation = "hardened"\n'
    assert policy(tmp_path, text, name).settings("x").expectation == "hardened"


def test_a_pyproject_without_the_table_says_nothing(tmp_path: Path) -> None:
    found = policy(tmp_path, '[project]\nname = "x"\n[tool.pytest]\n', "pyproject.toml")
    assert found.source is None
    assert found.settings("x") == Settings()


def test_robustness_toml_wins_over_pyproject(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.robustness]\nseed = 1\nblock_size = 16\n")
    settings = policy(tmp_path, "seed = 2\n").settings("x")
    assert (settings.seed, settings.block_size) == (2, 128)


def test_a_named_file_wins_over_both(tmp_path: Path) -> None:
    (tmp_path / "robustness.toml").write_text("seed = 1\n")
    (tmp_path / "strict.toml").write_text("seed = 2\n")
    found = load_policy(tmp_path / "strict.toml", folders=[tmp_path])
    assert found.settings("x").seed == 2
    assert found.source == str(tmp_path / "strict.toml")


def test_the_first_folder_that_has_a_policy_wins(tmp_path: Path) -> None:
    near, far = tmp_path / "far" / "near", tmp_path / "far"
    near.mkdir(parents=True)
    (far / "robustness.toml").write_text("seed = 1\n")
    assert load_policy(None, folders=[near, far]).settings("x").seed == 1
    (near / "pyproject.toml").write_text("[project]\n")  # says nothing of ours
    assert load_policy(None, folders=[near, far]).settings("x").seed == 1
    (near / "pyproject.toml").write_text("[tool.robustness]\nseed = 2\n")
    assert load_policy(None, folders=[near, far]).settings("x").seed == 2


def test_a_folder_is_no_policy(tmp_path: Path) -> None:
    (tmp_path / "robustness.toml").mkdir()
    with pytest.raises(PolicyError, match=r"robustness\.toml is not a file"):
        load_policy(None, folders=[tmp_path])
    with pytest.raises(PolicyError, match="is not a file"):
        load_policy(tmp_path)


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"policy file .*absent\.toml does not exist"):
        load_policy(tmp_path / "absent.toml", folders=[tmp_path])


# --- precedence ----------------------------------------------------------------------------------


def test_command_line_wins_over_override_over_file_over_default(tmp_path: Path) -> None:
    text = """
        seed = 1
        block_size = 16
        corpus = "file.txt"
        [checkpoints."mine"]
        seed = 2
        block_size = 32
        [checkpoints."mine".checks.ablation_degrades]
        min_ratio = 3.0
        [checks.ablation_degrades]
        min_ratio = 2.0
        max_ratio = 2.5
    """
    found = policy(
        tmp_path, text, seed=3, checks={"magnitude_alone_is_harmless": {"enabled": True}}
    )
    mine, another = found.settings("mine"), found.settings("another")
    assert (mine.seed, another.seed) == (3, 3)
    assert (mine.block_size, another.block_size) == (32, 16)
    assert mine.corpus == another.corpus == "file.txt"
    assert mine.device == "cpu"
    own: Any = mine.checks
    others: Any = another.checks
    assert own.ablation_degrades.min_ratio == 3
    assert others.ablation_degrades.min_ratio == 2
    assert own.ablation_degrades.max_ratio == 2.5
    assert own.magnitude_alone_is_harmless.enabled
    assert own.magnitude_alone_is_harmless.max_ratio == 1.5


def test_the_confidence_on_the_command_line_wins(tmp_path: Path) -> None:
    assert policy(tmp_path, "confidence = 0.9\n", confidence=0.95).confidence == 0.95
    assert load_policy(None, options={"confidence": 0.95}).confidence == 0.95


@pytest.mark.parametrize(
    ("glob", "reference", "label", "matches"),
    [
        ("google/*", "google/bert", "bert", True),
        ("google/*", "facebook/bart", "bart", False),
        ("bert", "google/bert", "bert", True),
        ("./out/checkpoint-?000", "./out/checkpoint-9000", "checkpoint-9000", True),
        ("checkpoint-[0-9]*", "/a/b/checkpoint-9000", "checkpoint-9000", True),
        ("BERT", "bert", "bert", False),
        ("*", "anything", "anything", True),
    ],
)
def test_overrides_match_the_reference_or_the_label(
    glob: str, reference: str, label: str, matches: bool, tmp_path: Path
) -> None:
    found = policy(tmp_path, f'[checkpoints."{glob}"]\nseed = 5\n')
    assert found.settings(reference, label).seed == (5 if matches else 0)


def test_of_two_matching_overrides_the_later_wins(tmp_path: Path) -> None:
    text = '[checkpoints."*"]\nseed = 1\nblock_size = 16\n[checkpoints."be*"]\nseed = 2\n'
    settings = policy(tmp_path, text).settings("bert")
    assert (settings.seed, settings.block_size) == (2, 16)


def test_an_override_of_nothing_is_refused(tmp_path: Path) -> None:
    found = policy(tmp_path, '[checkpoints."be*"]\nseed = 1\n[checkpoints."./out/*"]\nseed = 2\n')
    found.require_overrides_match(["google/bert", "./out/last"], ["bert", "last"])
    with pytest.raises(PolicyError) as caught:
        found.require_overrides_match(["google/bert", "out/last"], ["bert", "last"])
    message = str(caught.value)
    assert message.startswith(str(tmp_path / "robustness.toml"))
    assert "checkpoints.'./out/*' matches none" in message
    assert "bert, last" in message


# --- in a run ------------------------------------------------------------------------------------


@in_every_state
def test_a_policy_reaches_every_process(
    state: tuple[str, ...], pytester: pytest.Pytester, stubs: Stubs
) -> None:
    """From the root folder's pyproject.toml, with an override, below the command line."""
    (pytester.path / "pyproject.toml").write_text(
        f"""
        [tool.robustness]
        confidence = 0.9
        seed = 3
        block_size = 64
        [tool.robustness.checks.outliers_are_present]
        min = 2
        [tool.robustness.checkpoints."{LABEL}"]
        block_size = 32
        """
    )
    result = pytester.runpytest_subprocess(
        *stubs.options, *state, "--robustness-seed=0", "-k", "present",
        "--robustness-json=report.json",
    )  # fmt: skip
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(failed=1, deselected=0 if "-n" in state else 5)
    result.stdout.fnmatch_lines(["FAIL: the rule finds 2 to 16 outlier dimensions"])
    facts = read_json(pytester.path / "report.json")
    (checkpoint,) = facts["checkpoints"]
    assert facts["confidence"] == 0.9
    assert facts["policy"] == str(pytester.path / "pyproject.toml")
    assert (checkpoint["seed"], checkpoint["block_size"]) == (0, 32)


def test_the_folder_pytest_is_started_in_comes_before_the_root_folder(
    pytester: pytest.Pytester, stubs: Stubs
) -> None:
    (pytester.path / "pytest.ini").write_text("[pytest]\n")
    (pytester.path / "robustness.toml").write_text("sed = 1\n")  # not even read
    folder = pytester.path / "models"
    folder.mkdir()
    (folder / "robustness.toml").write_text("confidence = 0.9\n")
    result = run_pytest(
        folder, *stubs.options, "-k", "present", "--robustness-json=report.json", "-rA"
    )
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines([f"rootdir: {pytester.path}"])
    facts = read_json(folder / "report.json")
    assert facts["confidence"] == 0.9
    assert facts["policy"] == str(folder / "robustness.toml")
    assert f"policy: {folder / 'robustness.toml'}" in " ".join(text_of(result).split())
