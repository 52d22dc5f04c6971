"""The worked examples of CONTRIBUTING.md, executed; its map held against the folders."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import robustness
from robustness.checkpoint.resolving import resolve
from robustness.checks.check import PlanContext
from robustness.checks.limits import Terms
from robustness.checks.registry import CHECKS
from robustness.policy.policy import load_policy
from robustness.store.context import Context
from robustness.vetting import Vetting
from tests.support.checkpoints.planted import LAYERS, PLANTED, save_planted
from tests.support.records.full_reports import checkpoint, run

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def snippet(title: str) -> dict[str, Any]:
    """What the Python of a section defines."""
    section = TEXT.partition(f"## {title}")[2].partition("\n## ")[0]
    (code,) = re.findall(r"^```python\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {"__name__": "example"}
    exec(code, names)
    return names


def test_the_map_names_every_floor() -> None:
    package = Path(robustness.__file__).parent
    rooms = {f"{folder.parent.name}/" for folder in package.glob("*/__init__.py")}
    modules = {f.name for f in package.glob("*.py")} - {"__init__.py", "__main__.py"}
    named = set(re.findall(r"^\| `([\w./]+)` \|", TEXT, re.MULTILINE))
    assert named == rooms | modules


def test_the_rule_finds_the_dimension_whose_scale_is_largest() -> None:
    scale = np.random.default_rng(0).normal(1.0, 0.1, (4, 12))
    scale[:3, 5] = 4.0
    detection = snippet("Adding a rule")["RULE"].find(scale, None, n_distinct=4)
    (outlier,) = detection.outliers
    assert (outlier.dim, outlier.layers) == (5, (0, 1, 2))
    assert sorted((5, *detection.magnitude)) == list(range(12))


def test_the_check_is_planned_and_decided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check = snippet("Adding a check")["LastLayerAloneIsHarmless"]()
    folder, text = save_planted(tmp_path)
    settings = load_policy(None, options={"corpus": str(text)}).settings("planted")
    limits = {**settings.limits, check.name: check.limits(enabled=True, max_ratio=1.01)}
    terms = Terms(expectation="paper", exhaustive=True, seed=0, site="output", limits=limits)
    store = tmp_path / "store"
    vetting = Vetting(
        checkpoint=resolve(str(folder), cache=store),
        settings=settings,
        context=Context(root=store),
    )
    monkeypatch.setitem(vetting.__dict__, "terms", terms)
    context = PlanContext(terms=terms, model_profile=vetting.model_profile)
    (planned,) = check.planned(context)
    assert planned.dims == (PLANTED,)
    assert planned.test == "test_last_layer_alone_is_harmless"
    verdict = check.decide(planned, vetting, alpha=0.01)
    assert verdict.outcome == "pass"  # the layers before write what the head reads, too
    assert verdict.exact
    assert (
        verdict.measured == vetting.ablate([PLANTED], layers=[LAYERS - 1]).degrades(by=2).measured
    )
    assert verdict.statement.startswith(f"ablating dimension {PLANTED}")
    assert str(LAYERS - 1) in verdict.statement
    assert check.name not in CHECKS


def test_the_format_has_a_row_for_every_check() -> None:
    made = run(checkpoint())
    rows = snippet("Adding a report format")["render"](made).splitlines()
    assert len(rows) == len(made.checks)
    assert rows[0].startswith(f"{made.checkpoints[0].label},{made.checks[0].name},")
