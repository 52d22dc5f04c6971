"""What every format does with every kind of report, and how little it takes to add one."""

import sys
import types
from pathlib import Path

import pytest

from robustness.errors import ReportError
from robustness.report.reporters import REPORTERS, Reporter
from robustness.report.results import Report
from tests.support.records import full_reports as full
from tests.support.records.run_reports import HOSTILE, check, checkpoint, run, shard

ROOM = Path(__file__).resolve().parents[2] / "robustness"
REPORTS = {
    "passed": full.run(),
    "failed": run(checkpoint(checks=[check("fail"), check("inconclusive"), check("error")])),
    "two": full.run(full.checkpoint(), full.checkpoint(label="other")),
    "hostile": run(checkpoint("".join(HOSTILE), checks=[check("fail", reason="".join(HOSTILE))])),
    "unknown check": run(checkpoint(checks=[check(check="of_tomorrow")])),
}
OF_A_WHOLE = {
    "nothing": run(problems=["no node came so far"]),
    "partial": full.run(partial=True, passed=False),
    "shard": full.run(shard=shard(1, 3), passed=False),
    "nothing decided": full.run(full.checkpoint(checks=[], outliers=[], intact=None)),
}
"""What a model card cannot be about."""


@pytest.mark.parametrize("name", REPORTERS)
@pytest.mark.parametrize("kind", [*REPORTS, *OF_A_WHOLE])
def test_every_format_tells_of_every_report(name: str, kind: str) -> None:
    pytest.importorskip("plotly", reason="needs plotly (pip install 'pytest-robustness[html]')")
    if name == "card" and (kind in OF_A_WHOLE or kind == "two"):
        with pytest.raises(ReportError):
            REPORTERS[name].render(OF_A_WHOLE.get(kind, REPORTS["two"]))
        return
    text = REPORTERS[name].render({**REPORTS, **OF_A_WHOLE}[kind])
    assert "\x1b" not in text
    assert text or (name, kind) in (("github", "nothing decided"), ("terminal", "nothing decided"))
    text.encode()


def test_a_check_that_this_version_does_not_know_is_called_by_its_name() -> None:
    for name in ("terminal", "markdown", "html"):
        assert "of tomorrow" in REPORTERS[name].render(REPORTS["unknown check"])


def test_a_format_is_a_module_with_one_function(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("a_format")

    def render(report: Report) -> str:
        return "\n".join(f"{each.check},{each.outcome}" for each in report.checks)

    module.render = render  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "a_format", module)
    found = Reporter(name="csv", module="a_format", writes="a table to this file")
    assert found.render(run(checkpoint(checks=[check(), check("fail")]))) == (
        "joint_ablation_degrades,pass\njoint_ablation_degrades,fail"
    )


@pytest.mark.parametrize("room", ["report", "cli", "fleet", "pytest_support"])
def test_no_check_is_spelt_outside_the_room_of_checks(room: str) -> None:
    from robustness.checks.registry import CHECKS

    for file in (ROOM / room).rglob("*"):
        if file.suffix in (".py", ".j2", ".js"):
            text = file.read_text(encoding="utf-8").replace("``test_ablation_degrades[", "")
            spelt = [name for name in CHECKS if f"{name}" in text]
            assert not spelt, f"{file} spells {spelt}"
