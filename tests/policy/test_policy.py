"""Thresholds and settings: where they come from, which one wins, and what is refused."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from robustness.ablation.ablation import Ablation
from robustness.errors import PolicyError
from robustness.outliers.rules import RULES
from robustness.policy.policy import PolicyFile, load_policy
from robustness.policy.settings import Settings
from tests.support.records.policy_files import policy, refusal

# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sed = 1", "unknown key 'sed'; did you mean 'seed'?"),
        (
            "zzzz = 1",
            "unknown key 'zzzz'; known here: allow_pickle, base, block_size, bos, change",
        ),
        (
            "[checks.ablation_degrades]\nmin_ration = 2.0",
            "'checks.ablation_degrades.min_ration'; did you mean 'min_ratio'?",
        ),
        (
            "[checks.ablation]\nmin_ratio = 2.0",
            "unknown key 'checks.ablation'; did you mean 'ablation_degrades'?",
        ),
        (
            "[rules.busters]\nsigma = 2",
            "unknown key 'rules.busters.sigma'; known here: k, min_layer_share",
        ),
        ('seed = "1"', "seed: input should be a valid integer, not '1'"),
        ("seed = 1.0", "seed: input should be a valid integer, not 1.0"),
        ("seed = true", "seed: input should be a valid integer, not True"),
        ("exhaustive = 1", "exhaustive: input should be a valid boolean, not 1"),
        ("corpus = 1", "corpus: input should be a valid string, not 1"),
        ('corpus = ""', "corpus: string should have at least 1 character"),
        (
            'expectation = "papper"',
            "expectation: input should be 'paper', 'hardened' or 'regression', not 'papper'",
        ),
        ("rule = []", "rule: must be one of busters, puccetti, llm-int8"),
        ('rule = ["busters", "bustres"]', "or a list of them, not ['busters', 'bustres']"),
        ('rule = ["massive", "massive"]', "rule: names a rule twice, not ['massive', 'massive']"),
        (
            "[rules.llm-int8]\ntreshold = 2",
            "unknown key 'rules.llm-int8.treshold'; did you mean 'threshold'?",
        ),
        ("[rules.llm_int8]\nthreshold = 2.0", "did you mean 'llm-int8'?"),
        ('[rules.puccetti]\nvariant = "text"', "input should be 'code' or 'paper', not 'text'"),
        ('rule = "bustres"', "rule: must be one of busters, puccetti, llm-int8"),
        ('device = "gpu"', "device: "),
        ("block_size = 4", "block_size: input should be greater than or equal to 8, not 4"),
        ("seed = -1", "seed: input should be greater than or equal to 0, not -1"),
        ("confidence = 1.0", "confidence: input should be less than 1, not 1.0"),
        ("confidence = 0.4", "confidence: input should be greater than or equal to 0.5, not 0.4"),
        ("confidence = nan", "confidence: "),
        (
            "[checks.ablation_degrades]\nmin_ratio = 0.0",
            "min_ratio: input should be greater than 0, not 0.0",
        ),
        (
            "[checks.ablation_degrades]\nmin_ratio = inf",
            "min_ratio: input should be a finite number, not inf",
        ),
        ("[checks.ablation_degrades]\nmin_ratio = nan", "checks.ablation_degrades.min_ratio: "),
        (
            "[checks.outliers_are_present]\nmin = 5\nmax = 2",
            "checks.outliers_are_present: min (5) must not be greater than max (2)",
        ),
        ("[checks.outliers_are_present]\nmin = 20", "min (20) must not be greater than max (16)"),
        ("[rules.busters]\nmin_layer_share = 1.5", "rules.busters.min_layer_share: "),
        ("checks = 1", "checks: "),
        (
            '[checkpoints."bert*"]\nsed = 1',
            "unknown key 'checkpoints.bert*.sed'; did you mean 'seed'?",
        ),
        ('[checkpoints."bert*"]\nconfidence = 0.9', "unknown key 'checkpoints.bert*.confidence'"),
        (
            '[checkpoints."bert*".checks.ablation_degrades]\nmin_ratio = "2"',
            "checkpoints.bert*.checks.ablation_degrades.min_ratio: ",
        ),
        ('[checkpoints]\nbert = "strict"', "checkpoints.bert: "),
        ("seed = ", "is not valid TOML"),
    ],
)
def test_what_cannot_be_meant_is_refused(text: str, expected: str, tmp_path: Path) -> None:
    message = refusal(tmp_path, text)
    assert message.startswith(str(tmp_path / "robustness.toml"))
    assert expected in message


def test_whole_numbers_are_fine_where_fractions_are(tmp_path: Path) -> None:
    settings = policy(tmp_path, "[checks.ablation_degrades]\nmin_ratio = 2\n").settings("x")
    checks: Any = settings.checks
    assert checks.ablation_degrades.min_ratio == 2.0


def test_the_table_must_be_a_table(tmp_path: Path) -> None:
    message = refusal(tmp_path, "[tool]\nrobustness = 1\n", "pyproject.toml")
    assert "tool.robustness must be a table, not 1" in message


def test_what_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "robustness.toml").write_bytes(b"seed = 1 # \xff")
    with pytest.raises(PolicyError, match="is not valid TOML"):
        load_policy(None, folders=[tmp_path])


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    message = refusal(tmp_path, "sed = 1\nblock_size = 2\n")
    assert "'sed'" in message
    assert "block_size" in message


def test_an_unknown_check_on_the_command_line_is_refused(tmp_path: Path) -> None:
    message = refusal(tmp_path, "", checks={"magnitude_is_harmless": {"enabled": True}})
    assert message.startswith("command line: unknown key 'checks.magnitude_is_harmless'")
    assert "did you mean 'magnitude_alone_is_harmless'?" in message


def test_file_and_override_are_validated_together(tmp_path: Path) -> None:
    text = """
        [checks.outliers_are_present]
        max = 2
        [checkpoints."big".checks.outliers_are_present]
        min = 3
    """
    assert "min (3) must not be greater than max (2)" in refusal(tmp_path, text)


def test_layers_are_different_and_behind_the_embedding(tmp_path: Path) -> None:
    found = policy(tmp_path, 'site = "residual"\nmode = "mean"\nlayers = [5, 0]\n')
    ablation = found.settings("x").ablation((3,))
    assert ablation == Ablation(dims=(3,), site="residual", mode="mean", layers=(0, 5))
    assert Settings().ablation((3,)) == Ablation(dims=(3,))
    for text, says in (
        ('site = "embedding-norm"\nlayers = [0]\n', "lies before the layers"),
        *(
            (
                f"layers = {wrong}\n",
                "robustness.toml: layers: must be 'all' or a list of different numbers of layers "
                f"from 0 on, not {wrong}",
            )
            for wrong in ("[1, 1]", "[]", "[-1]", "'some'", "[0, 'a']", "3")
        ),
        *(
            (
                f"[checks.layer_profile]\nmax_ratio = {wrong}\n",
                f"max_ratio: must be 'record' or a number greater than 0, not {wrong}",
            )
            for wrong in ("-1.0", "'x'", "inf", "0")
        ),
        ('site = "middle"\n', "site"),
    ):
        assert says in refusal(tmp_path, text)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().seed = 1


# --- any valid policy ----------------------------------------------------------------------------

_RATIO = st.floats(min_value=1e-6, max_value=1e6)
_DROP = st.floats(min_value=0, max_value=2)
_WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1, max_size=20)


def _tables(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Tables with any of these keys."""
    return st.fixed_dictionaries({}, optional=fields)


_CHECK = {"enabled": st.booleans()}
_RULES = list(RULES)
_STD = st.floats(0.1, 10)
_SHARE = st.floats(0, 1, exclude_min=True)
_SETTINGS = {
    "expectation": st.sampled_from(["paper", "hardened", "regression"]),
    "change": st.sampled_from(["conversion", "training"]),
    "rule": st.one_of(
        st.sampled_from(_RULES), st.lists(st.sampled_from(_RULES), min_size=1, unique=True)
    ),
    "stack": st.sampled_from(["auto", "encoder", "decoder"]),
    "site": st.sampled_from(["output", "residual", "attention-norm"]),
    "mode": st.sampled_from(["zero", "mean"]),
    "layers": st.just("all") | st.lists(st.integers(0, 99), min_size=1, unique=True),
    "allow_pickle": st.booleans(),
    "base": _WORDS,
    "tokenizer": _WORDS,
    "corpus": _WORDS,
    "layout": st.sampled_from(["auto", "packed", "lines"]),
    "block_size": st.integers(8, 4096),
    "bos": st.sampled_from(["auto", "always", "never"]),
    "context": st.integers(0, 4096),
    "generator": _WORDS,
    "masking": st.sampled_from(["all", "bert", "pll", "pll-word-l2r"]),
    "seed": st.integers(0, 2**32),
    "device": st.sampled_from(["cpu", "cuda", "cuda:3", "mps"]),
    "dtype": st.sampled_from(["float32", "bfloat16", "auto"]),
    "exhaustive": st.booleans(),
    "examples": st.integers(0, 32),
    "task": _tables(
        data=_WORDS,
        kind=st.sampled_from(["auto", "classification", "regression", "similarity"]),
        metric=st.sampled_from(["auto", "accuracy", "f1", "matthews", "pearson", "spearman"]),
        max_length=st.integers(8, 4096),
    ),
    "rules": _tables(
        text_blocks=st.integers(1, 99),
        busters=_tables(k=_STD, min_layer_share=_SHARE),
        puccetti=_tables(
            variant=st.sampled_from(["code", "paper"]), n_std=_STD, min_layers=st.integers(1, 99)
        ),
        massive=_tables(threshold=_STD, median_factor=_STD),
        variance=_tables(factor=_STD),
        kurtosis=_tables(n_std=_STD, min_layer_share=_SHARE),
        **{
            "llm-int8": _tables(threshold=_STD, min_position_share=_SHARE),
            "super-weight": _tables(threshold=_STD, max_rounds=st.integers(1, 9)),
        },
    ),
    "checks": _tables(
        weights_are_finite=_tables(**_CHECK),
        outliers_are_present=_tables(**_CHECK, min=st.integers(0, 16), max=st.integers(16, 99)),
        ablation_degrades=_tables(**_CHECK, min_ratio=_RATIO, max_ratio=_RATIO),
        joint_ablation_degrades=_tables(**_CHECK, min_ratio=_RATIO, max_ratio=_RATIO),
        random_ablation_is_harmless=_tables(
            **_CHECK, max_ratio=_RATIO, max_draws=st.integers(128, 9999)
        ),
        outliers_matter_more_than_chance=_tables(**_CHECK, factor=_RATIO),
        magnitude_alone_is_harmless=_tables(**_CHECK, max_ratio=_RATIO),
        embedding_norm_alone_is_harmless=_tables(**_CHECK, max_ratio=_RATIO),
        quantization_is_harmless=_tables(**_CHECK, max_ratio=_RATIO),
        layer_profile=_tables(**_CHECK, max_ratio=st.just("record") | _RATIO),
        task_is_learned=_tables(**_CHECK),
        task_score_drops=_tables(
            **_CHECK, min_drop=_DROP, min_drop_alone=st.just("record") | _DROP, max_drop=_DROP
        ),
        random_ablation_keeps_task_score=_tables(
            **_CHECK, max_drop=_DROP, max_examples=st.integers(4096, 99_999)
        ),
        outliers_matter_more_for_task=_tables(**_CHECK, factor=_RATIO),
    ),
}
_PATTERNS = _WORDS.map(lambda word: f"x{word}")  # "*" would match what is asked for
_OVERRIDES = st.dictionaries(_PATTERNS, _tables(**_SETTINGS), max_size=2)
_POLICIES = _tables(
    **_SETTINGS,
    confidence=st.floats(0.5, 1, exclude_max=True),
    checkpoints=_OVERRIDES,
)


def toml(value: Any) -> str:
    """A value as inline TOML."""
    if isinstance(value, Mapping):
        return (
            "{" + ", ".join(f"{_quoted(key)} = {toml(item)}" for key, item in value.items()) + "}"
        )
    return _quoted(value) if isinstance(value, str) else json.dumps(value)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def test_the_strategy_knows_every_setting() -> None:
    def keys(model: type[BaseModel]) -> set[str]:
        return set(model.model_fields)

    assert keys(Settings) == set(_SETTINGS)
    assert keys(PolicyFile) == {*_SETTINGS, "confidence", "checkpoints"}


@given(table=_POLICIES)
def test_any_valid_policy_makes_the_round_trip(
    table: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp()
    text = "".join(f"{key} = {toml(value)}\n" for key, value in table.items())
    found = policy(folder, text)
    assert found.confidence == table.get("confidence", 0.99)
    settings = found.settings("/no/glob/names/this\n", "nor\nthis")
    for key, value in table.items():
        if key == "rule":
            assert settings.rule_names == ((value,) if isinstance(value, str) else tuple(value))
        elif key in _SETTINGS:
            _assert_holds(getattr(settings, key), value)
    assert Settings.model_validate(settings.model_dump()) == settings
    assert Settings.model_validate_json(settings.model_dump_json()) == settings
    assert load_policy(None, options=settings.model_dump()).settings("x") == settings


def _assert_holds(found: Any, given: Any) -> None:
    if isinstance(given, Mapping):
        for key, value in given.items():
            _assert_holds(getattr(found, key.replace("-", "_")), value)
    else:
        assert found == given
