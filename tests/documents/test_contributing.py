"""The worked examples of CONTRIBUTING.md, executed; its map held against the folders."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import robustness
from robustness.checkpoint.resolving import resolve
from robustness.checks.check import PlanContext
from robustness.checks.registry import CHECKS
from robustness.policy.policy import load_policy
from robustness.store.context import Context
from robustness.vetting import Vetting
from tests.support.checkpoints.planted import LAYERS, PLANTED, save_planted
from tests.support.records.full_reports import checkpoint, run

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def snippets(title: str) -> list[str]:
    """The Python of a section."""
    section = TEXT.partition(f"## {title}")[2].partition("\n## ")[0]
    return re.findall(r"^```python\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)


def snippet(title: str) -> dict[str, Any]:
    """What the first Python of a section defines."""
    names: dict[str, Any] = {"__name__": "example"}
    exec(snippets(title)[0], names)
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
    detection = snippet("Adding a rule")["largest"](scale, None, n_distinct=4)
    (outlier,) = detection.outliers
    assert (outlier.dim, outlier.layers) == (5, (0, 1, 2))
    assert sorted((5, *detection.magnitude)) == list(range(12))


def test_the_check_is_planned_and_decided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check = snippet("Adding a check")["LastLayerAloneIsHarmless"]()
    folder, text = save_planted(tmp_path)
    settings = load_policy(None, options={"corpus": str(text)}).settings("planted")
    limits = {**settings.limits, check.name: check.limits(enabled=True, max_ratio=1.01)}
    terms = replace(settings.terms, exhaustive=True, limits=limits)
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
    header, *rows = snippet("Adding a report format")["render"](made).splitlines()
    assert header == "checkpoint,check,measured,outcome"
    assert len(rows) == len(made.checks)
    assert rows[0].startswith(f"{made.checkpoints[0].label},{made.checks[0].name},")


def test_the_examples_work_where_they_are_said_to_be_put(tmp_path: Path) -> None:
    """In a copy of the package: each module, and the lines that make it known."""
    package = tmp_path / "robustness"
    shutil.copytree(Path(robustness.__file__).parent, package)
    rule, check, layout = map(
        snippets, ("Adding a rule", "Adding a check", "Adding a report format")
    )
    rules = package / "outliers" / "rules"
    (rules / "largest.py").write_text(rule[0])
    insert(
        rules / "__init__.py",
        "    }\n)\n",
        said('"largest": Rule(reads="parameters", find=largest),'),
    )
    insert(
        rules / "__init__.py",
        "from robustness.outliers.rules.spikes",
        "from robustness.outliers.rules.largest import largest\n",
    )
    insert(
        rules / "settings.py", "    def of(self", f"    {said('largest: Largest = Largest()')}\n\n"
    )
    insert(
        rules / "settings.py",
        "class Rules(",
        f"class {said('Largest(StrictTable)')}:\n    min_layer_share: float = 0.5\n\n\n",
    )
    insert(rules / "settings.py", "]\n\n\nclass Busters", ', "largest"')
    (package / "checks" / "last_layer.py").write_text(check[0])
    registry = package / "checks" / "registry.py"
    insert(registry, "        TaskScoreIsKept(),", said("LastLayerAloneIsHarmless(),"))
    insert(
        registry,
        "from robustness.checks.planned",
        "from robustness.checks.last_layer import LastLayerAloneIsHarmless\n",
    )
    with (package / "suite" / "test_layers.py").open("a") as suite:
        suite.write(f"\n\n{check[1]}")
    (package / "report" / "csv_table.py").write_text(layout[0])
    insert(
        package / "report" / "reporters.py",
        '        Reporter(\n            name="json"',
        f"{layout[1]},\n",
    )
    folder, text = save_planted(tmp_path)

    asked = "--robustness-enable=last_layer_alone_is_harmless"
    found = program(
        tmp_path, "pytest", f"--model={folder}", f"--robustness-corpus={text}", asked,
        "--robustness-rule=largest", "--robustness-csv=run.csv", "--robustness-json=run.json",
    )  # fmt: skip
    assert found.returncode == 0, found.stdout + found.stderr
    assert re.search("last layer alone is harmless .* pass", found.stdout)
    assert f"largest: largest scale in at least 0.5 of the layers: {PLANTED}" in found.stdout
    again = program(tmp_path, "robustness", "report", "run.json", "--csv=again.csv")
    assert again.returncode == 0, again.stdout + again.stderr
    assert (tmp_path / "again.csv").read_text() == (tmp_path / "run.csv").read_text()
    assert "model,last layer alone is harmless,1.0" in (tmp_path / "run.csv").read_text()


def said(line: str) -> str:
    """A line that the document tells to write."""
    assert f"`{line}`" in TEXT or f"class `{line}`" in TEXT
    return line


def insert(file: Path, before: str, new: str) -> None:
    """Write something before the one place in a file that begins like this."""
    text = file.read_text(encoding="utf-8")
    assert text.count(before) == 1
    file.write_text(text.replace(before, new + before), encoding="utf-8")


def program(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a module's program with the copy of the package."""
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=place,
        env={
            **{k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")},
            "PYTHONPATH": str(place),
            "XDG_CACHE_HOME": str(place / "cache"),
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
