"""What a checkpoint came to in one sentence, as every format begins."""

import pytest

from robustness.report.conclusion import conclusion
from robustness.report.parts import ComparedWith
from robustness.report.results import CheckResult
from robustness.statistics.details import Details
from robustness.statistics.location import Location, WeightChanges
from tests.support.records.run_reports import check, checkpoint

OTHER = ComparedWith(
    label="original", reference="org/original", revision="0123", dims=(7,), saved=False
)
SAVED = OTHER.model_copy(update={"saved": True})
CLAIM = "that is what the paper found in BERT, and no damage where it does not hold"


def kept(name: str, measured: float | None, outcome: str = "pass", **more: object) -> CheckResult:
    usual = {"threshold": 1.01, "passes": "below", "interval": None, "dims": ()}
    return check(outcome, check=name, measured=measured, **{**usual, **more})


@pytest.mark.parametrize(
    ("checks", "said"),
    [
        (
            [
                kept("perplexity_is_kept", 1.004, interval=(0.99, 1.009)),
                kept("predictions_are_kept", 0.011),
            ],
            "PASS: perplexity is 0.4 % above the reference's (at most 0.9 % above); 1.1 % of the "
            "predictions differ.",
        ),
        (
            [kept("perplexity_is_kept", 0.999), kept("predictions_are_kept", 1.0)],
            "PASS: perplexity is 0.1 % below the reference's; 100 % of the predictions differ.",
        ),
        (
            [kept("perplexity_is_kept", 0.999), kept("predictions_are_kept", 0.0)],
            "PASS: perplexity is 0.1 % below the reference's; none of the predictions differs.",
        ),
        (
            [kept("perplexity_is_kept", 1.0, interval=(1.0, 1.0))],
            "PASS: perplexity is the same as the reference's.",
        ),
        ([kept("perplexity_is_kept", None)], "PASS: the candidate is the reference."),
        (
            [
                kept("perplexity_is_kept", 1.9, "fail", interval=(1.2, 3.0)),
                kept("predictions_are_kept", 0.3, "fail"),
                kept("distributions_are_kept", 0.5, "fail"),
            ],
            "FAIL: perplexity is 1.9 times the reference's (at least 20 % above); 30 % of the "
            "predictions differ; 1 more check did not pass; see robustness compare "
            "organisation/it org/original.",
        ),
        (
            [kept("distributions_are_kept", 0.0213, "inconclusive")],
            "INCONCLUSIVE: distributions lie 0.021 nats per position from the reference's; see "
            "robustness compare organisation/it org/original.",
        ),
    ],
    ids=["kept", "all differ", "better", "equal", "itself", "damaged", "undecided"],
)
def test_a_candidate_is_told_of_beside_its_reference(checks: list[CheckResult], said: str) -> None:
    assert conclusion(checkpoint(checks=checks, compared_with=OTHER)) == said


def test_where_it_differs_is_told() -> None:
    location = Location(weights=WeightChanges(tensors=9, changed=2, patterns=("rows swapped",)))
    failing = kept("perplexity_is_kept", 1.28, "fail", details=Details(location=location))
    said = conclusion(checkpoint(checks=[failing], compared_with=OTHER))
    assert said == (
        "FAIL: perplexity is 28 % above the reference's; rows swapped; see robustness compare "
        "organisation/it org/original."
    )
    saved = conclusion(checkpoint(checks=[failing], compared_with=SAVED))
    assert saved == "FAIL: perplexity is 28 % above the reference's; rows swapped."


def test_what_the_errors_of_others_follow_from_comes_first() -> None:
    broken = check("fail", check="weights_are_finite", measured=None, reason="x is NaN", dims=())
    follows = kept("perplexity_is_kept", None, "error", reason="logits are not numbers")
    said = conclusion(checkpoint(checks=[follows, broken], compared_with=OTHER))
    assert said.startswith("FAIL: x is NaN; perplexity is kept: error; logits are not numbers")


def test_a_claim_of_the_paper_that_does_not_hold_is_no_damage() -> None:
    said = conclusion(checkpoint(checks=[check("fail", measured=1.2)]))
    assert CLAIM in said
    broken = check("error", check="weights_are_finite", measured=None, reason="x is NaN", dims=())
    both = conclusion(checkpoint(checks=[broken, check("fail")]))
    assert both.startswith("FAIL: x is NaN; joint ablation degrades")
    assert CLAIM not in both
    assert conclusion(checkpoint(checks=[broken])) == "ERROR: x is NaN."


def test_what_is_no_verdict_is_not_called_one() -> None:
    assert conclusion(checkpoint(), partial=True).startswith("PARTIAL: nothing failed in 1 check")
    assert conclusion(checkpoint(checks=[])).startswith("NOT VETTED: ")
