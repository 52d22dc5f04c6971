"""All rules together: their registry, and what holds for each of them."""

import inspect
from typing import get_args

from robustness.outliers.rules import RULES
from robustness.outliers.rules.settings import Rule
from robustness.policy.settings import Settings


def test_every_rule_can_be_named_in_a_policy() -> None:
    assert tuple(RULES) == get_args(Rule)


def test_a_rules_settings_are_its_arguments_with_the_same_defaults() -> None:
    for name, rule in RULES.items():
        arguments = inspect.signature(rule.find).parameters.values()
        defaults = {p.name: p.default for p in arguments if p.kind is p.KEYWORD_ONLY}
        defaults.pop("n_distinct", None)  # of the model, not of the rule
        settings = Settings().rules.of(name)
        settings.pop("max_rounds", None)  # of the readings that super-weight is given
        assert settings == defaults


def test_only_rules_on_parameters_do_without_the_model() -> None:
    assert [name for name, rule in RULES.items() if not rule.needs_model] == ["busters", "puccetti"]
