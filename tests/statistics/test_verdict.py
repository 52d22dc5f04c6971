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
from pydantic import ValidationError

from robustness.statistics.details import Details
from robustness.statistics.figures import (
    DrawFigure,
    DrawFigures,
    FactorFigures,
    HistoryEntry,
    LayerFigure,
)
from robustness.statistics.verdict import Outcome, Verdict

CLAIM = "ablating dimension 308 multiplies perplexity by at least 1.05"
FAILED = Verdict(
    outcome="fail",
    statement=CLAIM,
    measured=1.0021,
    interval=(0.998, 1.0063),
    threshold=1.05,
    seen=1234,
    tokens=23456,
    details=Details(
        blind_share=0.0123,
        factor=FactorFigures(joint=1.5, control=math.inf),
        layers=(LayerFigure(layer=0, ratio=math.inf),),
    ),
)

numbers = st.floats(allow_nan=False)
intervals = st.none() | st.tuples(numbers, numbers)
details = st.builds(
    Details,
    blind_share=st.none() | st.floats(0, 1),
    draws=st.none()
    | st.builds(
        DrawFigures,
        draws=st.integers(0),
        mean=numbers,
        quantiles=st.dictionaries(st.text(), numbers, max_size=2),
        worst=st.builds(
            tuple, st.lists(st.builds(DrawFigure, dims=st.just((3,)), measured=numbers))
        ),
        by_draw=st.builds(tuple, st.lists(numbers)),
    ),
    factor=st.none() | st.builds(FactorFigures, joint=numbers, control=numbers),
    layers=st.builds(
        tuple,
        st.lists(
            st.builds(LayerFigure, layer=st.integers(0), ratio=numbers, interval=intervals),
            max_size=3,
        ),
    ),
)
histories = st.builds(
    tuple,
    st.lists(
        st.builds(HistoryEntry, seen=st.integers(0), measured=numbers, interval=intervals),
        max_size=3,
    ),
)
verdicts = st.builds(
    Verdict,
    outcome=st.sampled_from(["pass", "fail", "inconclusive", "error", "not applicable"]),
    statement=st.text(),
    measured=st.none() | numbers,
    measure=st.sampled_from(["ratio", "factor", "drop", "share"]),
    interval=intervals,
    threshold=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    passes=st.sampled_from(["above", "below", None]),
    seen=st.integers(0),
    unit=st.sampled_from(["text blocks", "examples"]),
    tokens=st.integers(0),
    exact=st.booleans(),
    details=details,
    reason=st.text(),
    history=histories,
)


class TestVerdict:
    @pytest.mark.parametrize("outcome", ["fail", "inconclusive", "error", "not applicable"])
    def test_only_a_pass_passes(self, outcome: Outcome) -> None:
        assert Verdict(outcome="pass", statement=CLAIM)
        assert not Verdict(outcome=outcome, statement=CLAIM)

    def test_an_unknown_outcome_is_refused(self) -> None:
        with pytest.raises(ValueError, match="outcome"):
            Verdict(outcome="passed", statement=CLAIM)  # type: ignore[arg-type]

    def test_an_unknown_side_is_refused(self) -> None:
        assert (
            Verdict(outcome="pass", statement=CLAIM, threshold=1.0, passes="below").passes
            == "below"
        )
        with pytest.raises(ValueError, match="passes"):
            Verdict(outcome="pass", statement=CLAIM, passes="<")  # type: ignore[arg-type]

    def test_a_verdict_stored_without_a_side_has_none(self) -> None:
        data = json.loads(FAILED.model_dump_json())
        del data["passes"]
        assert Verdict.model_validate_json(json.dumps(data)).passes is None

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
            outcome="pass", statement=CLAIM, measured=12345.6, threshold=1.05,
            seen=9, tokens=80,
            exact=True,
        )  # fmt: skip
        assert exact.explain().splitlines()[1] == (
            "measured 12,346 against 1.05, exactly, on the whole corpus of 9 text blocks with "
            "80 scored tokens"
        )

    def test_a_number_without_text_blocks_stands_alone(self) -> None:
        verdict = Verdict(outcome="fail", statement="two outliers at least", measured=1.0)
        assert verdict.explain() == "FAIL: two outliers at least\nmeasured 1"

    def test_infinity_is_spelled_out(self) -> None:
        infinite = Verdict(
            outcome="pass", statement=CLAIM, measured=math.inf, threshold=1.05,
            seen=9, tokens=80,
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
        text = verdict.model_dump_json()
        json.loads(text, parse_constant=refused)
        assert Verdict.model_validate_json(text) == verdict

    def test_it_survives_a_json_file_whole(self) -> None:
        assert Verdict.model_validate_json(FAILED.model_dump_json()) == FAILED
        assert pickle.loads(pickle.dumps(FAILED)) == FAILED

    def test_a_number_of_another_library_becomes_a_plain_one(self) -> None:
        verdict = Verdict(outcome="pass", statement=CLAIM, measured=np.float64(math.inf))
        assert json.loads(verdict.model_dump_json())["measured"] == "inf"
        finite = Verdict(outcome="pass", statement=CLAIM, measured=np.float64(1.5))
        assert json.loads(finite.model_dump_json())["measured"] == 1.5

    def test_details_hold_what_there_is(self) -> None:
        found = json.loads(FAILED.model_dump_json())["details"]
        assert found == {
            "blind_share": 0.0123,
            "factor": {"joint": 1.5, "control": "inf"},
            "layers": [{"layer": 0, "ratio": "inf", "interval": None}],
        }

    @pytest.mark.parametrize(
        "wrong",
        [
            {"details": {"dims": [308]}},
            {"details": {"factor": {"joint": object(), "control": 1.0}}},
            {"tokens": 1.5},
            {"measured": "1.5"},
            {"schema": 99},
        ],
    )
    def test_what_a_verdict_has_no_place_for_is_refused(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(ValidationError):
            Verdict(**{"outcome": "pass", "statement": CLAIM, **wrong})

    def test_a_verdict_cannot_be_changed(self) -> None:
        with pytest.raises(ValidationError, match="frozen"):
            FAILED.outcome = "pass"


def refused(word: str) -> None:
    raise ValueError(f"{word} is no JSON")
