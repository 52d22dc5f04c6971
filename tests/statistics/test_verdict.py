"""The verdict that users get."""

from __future__ import annotations

import json
import math
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustness.statistics.verdict import (
    Outcome,
    Verdict,
)

CLAIM = "ablating dimension 308 multiplies perplexity by at least 1.05"
FAILED = Verdict(
    outcome="fail",
    statement=CLAIM,
    ratio=1.0021,
    interval=(0.998, 1.0063),
    threshold=1.05,
    text_blocks=1234,
    tokens=23456,
    details={"blind_share": 0.0123, "dims": [308], "worst": {"ratio": 1.5}},
)

json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
ratios = st.floats(0, allow_nan=False)
verdicts = st.builds(
    Verdict,
    outcome=st.sampled_from(["pass", "fail", "inconclusive", "error", "not applicable"]),
    statement=st.text(),
    ratio=st.none() | ratios,
    interval=st.none() | st.tuples(ratios, ratios),
    threshold=st.none() | ratios,
    text_blocks=st.integers(0),
    tokens=st.integers(0),
    exact=st.booleans(),
    details=st.dictionaries(st.text(), json_values),
    reason=st.text(),
)


class TestVerdict:
    @pytest.mark.parametrize("outcome", ["fail", "inconclusive", "error", "not applicable"])
    def test_only_a_pass_passes(self, outcome: Outcome) -> None:
        assert Verdict(outcome="pass", statement=CLAIM)
        assert not Verdict(outcome=outcome, statement=CLAIM)

    def test_an_unknown_outcome_is_refused(self) -> None:
        with pytest.raises(ValueError, match="no outcome"):
            Verdict(outcome="passed", statement=CLAIM)  # type: ignore[arg-type]

    def test_an_unknown_side_is_refused(self) -> None:
        assert (
            Verdict(outcome="pass", statement=CLAIM, threshold=1.0, passes="below").passes
            == "below"
        )
        with pytest.raises(ValueError, match="no side"):
            Verdict(outcome="pass", statement=CLAIM, passes="<")  # type: ignore[arg-type]

    def test_a_verdict_stored_without_a_side_has_none(self) -> None:
        data = FAILED.to_dict()
        del data["passes"]
        assert Verdict.from_dict(data).passes is None

    def test_it_reads_well_in_an_assertion(self) -> None:
        assert repr(FAILED) == (
            "<FAIL: ablating dimension 308 multiplies perplexity by at least 1.05; "
            "measured 1.002 (0.998 to 1.006) against 1.05>"
        )
        assert "\n" not in repr(Verdict(outcome="error", statement="two\nlines", reason="a\nb"))

    def test_it_explains_itself_in_numbers(self) -> None:
        assert FAILED.explain().splitlines() == [
            f"FAIL: {CLAIM}",
            "measured 1.002 (0.998 to 1.006) against 1.05, estimated from 1,234 text blocks with "
            "23,456 scored tokens; blind to effects in fewer than 1.2 % of text blocks",
        ]

    def test_an_evaluation_is_not_called_an_estimate(self) -> None:
        exact = Verdict(
            outcome="pass", statement=CLAIM, ratio=12345.6, threshold=1.05,
            text_blocks=9, tokens=80,
            exact=True,
        )  # fmt: skip
        assert exact.explain().splitlines()[1] == (
            "measured 12,346 against 1.05, exactly, on the whole corpus of 9 text blocks with "
            "80 scored tokens"
        )

    def test_a_number_without_text_blocks_stands_alone(self) -> None:
        verdict = Verdict(outcome="fail", statement="two outliers at least", ratio=1.0)
        assert verdict.explain() == "FAIL: two outliers at least\nmeasured 1"

    def test_infinity_is_spelled_out(self) -> None:
        infinite = Verdict(
            outcome="pass", statement=CLAIM, ratio=math.inf, threshold=1.05,
            text_blocks=9, tokens=80,
            exact=True,
        )  # fmt: skip
        assert infinite.explain().splitlines()[1] == (
            "measured infinity against 1.05, whatever follows, from 9 text blocks with "
            "80 scored tokens"
        )

    def test_without_a_measurement_the_reason_is_the_explanation(self) -> None:
        verdict = Verdict(
            outcome="not applicable", statement=CLAIM, reason="no outliers were found"
        )
        assert verdict.explain() == f"NOT APPLICABLE: {CLAIM}\nno outliers were found"
        assert repr(verdict) == f"<NOT APPLICABLE: {CLAIM}; no outliers were found>"

    @given(verdict=verdicts)
    def test_it_survives_a_json_file(self, verdict: Verdict) -> None:
        text = json.dumps(verdict.to_dict(), allow_nan=False)
        again = Verdict.from_dict(json.loads(text))
        assert again.to_dict() == verdict.to_dict()
        for name in ("outcome", "statement", "ratio", "interval", "threshold", "passes", "reason"):
            assert getattr(again, name) == getattr(verdict, name)

    def test_it_survives_a_json_file_whole(self) -> None:
        assert Verdict.from_dict(json.loads(json.dumps(FAILED.to_dict()))) == FAILED
        assert pickle.loads(pickle.dumps(FAILED)) == FAILED
        assert hash(FAILED)

    def test_numbers_of_other_libraries_become_plain_ones(self) -> None:
        verdict = Verdict(
            outcome="pass",
            statement=CLAIM,
            ratio=np.float64(math.inf),
            tokens=np.int64(3),  # type: ignore[arg-type]
            details={"a": np.array([1.5, math.inf]), "b": np.bool_(True), "c": (np.float32(2),)},
        )
        data = verdict.to_dict()
        assert data["ratio"] == "inf"
        assert type(data["tokens"]) is int
        assert data["details"] == {"a": [1.5, "inf"], "b": True, "c": [2.0]}
        assert [type(value) for value in data["details"]["c"]] == [float]
        assert data["details"]["b"] is True

    def test_what_json_cannot_hold_is_refused(self) -> None:
        with pytest.raises(TypeError, match="cannot be part of a verdict"):
            Verdict(outcome="pass", statement=CLAIM, details={"x": object()}).to_dict()

    def test_a_verdict_of_another_schema_is_refused(self) -> None:
        with pytest.raises(ValueError, match="schema 99"):
            Verdict.from_dict({**FAILED.to_dict(), "schema": 99})
