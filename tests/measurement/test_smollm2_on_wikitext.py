"""SmolLM2's verdicts on a stated part of WikiText-2, measured to its end: as in RESULTS.md."""

from pathlib import Path

import pytest

from robustness.policy.policy import load_policy
from robustness.run.planning import make_plan
from robustness.store.context import Context
from robustness.vetting import Vetting
from tests.support.checkpoints.shared import shared_data, smollm2_reference

LINES = 83
"""Of the raw test split, from its beginning: 64 text blocks."""

RESULTS = Path(__file__).parents[2] / "benchmarks" / "RESULTS.md"
SECTION = "## SmolLM2-135M on a part of WikiText-2, exhaustively"
CHECKS = {
    "weights_are_finite": "weights are finite",
    "ablation_degrades-dim100": "without 100",
    "ablation_degrades-dim247": "without 247",
    "ablation_degrades-dim507": "without 507",
    "joint_ablation_degrades-dims100+247+507": "without all three",
    "random_ablation_is_harmless-3random": "without 3 random dimensions, median",
    "outliers_matter_more_than_chance-dims100+247+507": "nats of all three over those of 3 random",
}


def stated() -> dict[str, tuple[float, str]]:
    """Figure and verdict by the row's name."""
    section = RESULTS.read_text("utf-8").partition(f"\n{SECTION}\n")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line[:2] == "| "]
    return {name: (float(figure), verdict) for name, figure, _, verdict in rows[1:]}


@pytest.mark.slow
def test_the_verdicts_and_figures_are_those_in_the_results(tmp_path: Path) -> None:
    lines = shared_data("wikitext-2-raw/wiki.test.raw").read_text("utf-8").splitlines(keepends=True)
    part = tmp_path / "part.txt"
    part.write_text("".join(lines[:LINES]), "utf-8")
    policy = load_policy(None, options={"corpus": str(part), "exhaustive": True})
    plan = make_plan([smollm2_reference()], policy, Context(root=tmp_path / "store"))
    (planned,) = plan.checkpoints
    vetting = Vetting(
        checkpoint=planned.load(),
        settings=planned.settings,
        model_profile=planned.model_profile,
        context=Context(root=plan.store_root),
    )
    assert vetting.outliers().dims == (100, 247, 507)
    found = {}
    for check in planned.checks:
        verdict = vetting.decide(check, alpha=plan.alpha)
        name = CHECKS.get("-".join(filter(None, (check.check, check.suffix))))
        if name is None:
            assert (check.check, verdict.outcome) == ("outliers_are_present", "pass")
            continue
        assert verdict.exact == ("random" not in name)
        assert verdict.measured is not None
        found[name] = (verdict.measured, verdict.outcome)
    expected = stated()
    assert found.keys() == expected.keys()
    for name, (figure, outcome) in expected.items():
        assert found[name][0] == pytest.approx(figure, rel=2e-3), name
        assert found[name][1] == outcome, name
