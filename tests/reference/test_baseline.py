"""Profiles: what is written is read, and nothing else is; compared paired, by text block."""

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustness.errors import BaselineError
from robustness.reference.baseline import (
    SCHEMA,
    AblationBaseline,
    Baseline,
    CheckpointBaseline,
    Flagged,
    read_baseline,
    write_baseline,
)
from robustness.reference.comparison import (
    Tolerances,
    compare_baselines,
    difference,
    outlier_verdict,
)
from robustness.statistics.details import Details
from robustness.statistics.figures import ReferenceFigures
from robustness.statistics.verdict import Verdict
from robustness.store.documents import MOST_BYTES
from tests.support.records.profiles import CONDITIONS, entry, profile

TOLERANCES: dict[str, Any] = {
    "tolerances": Tolerances(dims="same", max_perplexity_ratio=1.05, effect=(0.5, 2.0)),
    "alpha": 0.01,
}


def changed(**values: Any) -> dict[str, Any]:
    """A profile file with other values in its only checkpoint."""
    data = profile().to_dict()
    data["checkpoints"][0].update(values)
    return data


# --- files ---------------------------------------------------------------------------------------


@given(
    nll=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20),
    ablated=st.lists(st.floats(-1e6, 1e6) | st.just(math.inf), min_size=20, max_size=20),
    label=st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1),
)
@settings(max_examples=60, deadline=None)
def test_what_is_written_is_read(
    nll: list[float], ablated: list[float], label: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    ablation = entry().ablations[0].ablation
    found = profile(
        entry(
            label,
            text_blocks=30,
            tokens=(19,) * len(nll),
            nll_nats=tuple(nll),
            ablations=(
                AblationBaseline(
                    name="dim7", ablation=ablation, nll_nats=tuple(ablated[: len(nll)])
                ),
            ),
        )
    )
    file = tmp_path_factory.mktemp("profile") / "base.json"
    write_baseline(found, file)
    assert read_baseline(file) == found
    only = found.checkpoints[0]
    assert CheckpointBaseline.from_dict(json.loads(json.dumps(only.to_dict()))) == only


def refused(file: Path) -> str:
    """The sentence with which a file is refused."""
    with pytest.raises(BaselineError) as caught:
        read_baseline(file)
    sentence = str(caught.value)
    assert str(file) in sentence
    assert sentence.isprintable()
    assert len(sentence) < 500 + len(str(file))
    return sentence


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (changed(label="a\x1b[31mb"), "printable"),
        (changed(label=7), "label"),
        (changed(extra=1), "extra"),
        (changed(tokens=[1, 2]), "one NLL and one token count"),
        (changed(tokens=[], nll_nats=[], ablations=[]), "one NLL and one token count"),
        (changed(nll_nats=["inf"] * 64), "nll_nats"),
        (changed(text_blocks=3), "text blocks"),
        (changed(text_blocks=True), "text_blocks"),
        (changed(outliers=[{"dim": 32, "layers": []}]), "hidden size"),
        (changed(outliers=[{"dim": d, "layers": []} for d in (3, 2)]), "ascend"),
        (changed(ablations=[{"name": "x", "ablation": {}, "nll_nats": [1.0]}]), "ablation x"),
        (changed(ablations=profile().to_dict()["checkpoints"][0]["ablations"] * 2), "twice"),
        ({**profile().to_dict(), "checkpoints": []}, "different labels"),
        ({**profile().to_dict(), "kind": "something"}, "kind"),
        ({**profile().to_dict(), "schema": "1"}, "schema"),
        ([], "not a profile"),
        ({}, "not a profile"),
    ],
)
def test_what_is_no_profile_is_refused_in_one_sentence(
    data: Any, named: str, tmp_path: Path
) -> None:
    file = tmp_path / "base.json"
    file.write_text(json.dumps(data))
    assert named in refused(file)


@pytest.mark.parametrize(
    "text",
    [b"", b"\x00\xff", b"{", b"[" * 100_000, b'{"a":' * 100_000, b"1" * 10_000, b'"\\ud800"'],
    ids=["empty", "binary", "cut", "deep lists", "deep objects", "a number", "a surrogate"],
)
def test_what_is_no_json_is_refused_in_one_sentence(text: bytes, tmp_path: Path) -> None:
    file = tmp_path / "base.json"
    file.write_bytes(text)
    assert "not a profile" in refused(file)


def test_another_schema_is_refused_by_its_number(tmp_path: Path) -> None:
    """Whatever else has changed with it."""
    file = tmp_path / "base.json"
    file.write_text(json.dumps({"kind": "robustness profile", "schema": 1, "models": []}))
    assert f"schema 1, and this version reads schema {SCHEMA}" in refused(file)


def test_what_is_no_file_or_too_large_is_refused(tmp_path: Path) -> None:
    assert "is no file" in refused(tmp_path)
    assert "is no file" in refused(tmp_path / "absent.json")
    sparse = tmp_path / "sparse.json"
    with sparse.open("wb") as stream:
        stream.truncate(MOST_BYTES + 1)
    assert "more than a profile may have" in refused(sparse)


def test_damage_is_refused_or_gives_a_whole_profile(tmp_path: Path) -> None:
    """600 files with flipped, cut and doubled bytes."""
    write_baseline(profile(entry(n=4)), tmp_path / "whole.json")
    whole = (tmp_path / "whole.json").read_bytes()
    generator, file = random.Random(0), tmp_path / "damaged.json"
    outcomes = set()
    for _ in range(600):
        data = bytearray(whole)
        for _ in range(generator.randint(1, 3)):
            place = generator.randrange(len(data))
            kind = generator.randrange(3)
            if kind == 0:
                data[place] = generator.randrange(256)
            elif kind == 1:
                del data[place : place + generator.randint(1, 40)]
            else:
                data[place:place] = data[place : place + generator.randint(1, 40)]
        file.write_bytes(data)
        try:
            found = read_baseline(file)
        except BaselineError:
            outcomes.add("refused")
        else:
            outcomes.add("read")
            assert all(map(math.isfinite, found.checkpoints[0].nll_nats))
            compare_baselines(found.checkpoints[0], found.checkpoints[0], **TOLERANCES)
    assert outcomes == {"read", "refused"}


def test_checkpoints_are_found_by_label_or_as_the_only_one() -> None:
    one, two = profile(entry("a")), profile(entry("a"), entry("b"))
    assert two.entry("b", source="base.json").label == "b"
    assert one.entry("other-revision", source="base.json").label == "a"
    with pytest.raises(BaselineError, match=r"base\.json holds no checkpoint 'c', but a, b"):
        two.entry("c", source="base.json")


# --- comparing -----------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [*CONDITIONS, "something_new"])
def test_every_difference_in_conditions_is_named(key: str) -> None:
    found = difference(entry(), {**CONDITIONS, key: "another"}, "wikitext")
    assert found is not None
    assert {"text_blocks": "tokens"}.get(key, key.replace("_", " ").split()[0]) in (
        found.replace("version of the protocol", "method")
    )
    assert difference(entry(), CONDITIONS, "wikitext") is None


def test_what_one_side_does_not_say_is_a_difference() -> None:
    lacking = {key: value for key, value in CONDITIONS.items() if key != "seed"}
    assert difference(entry(), lacking, "wikitext") == "another seed (0, here null)"


def test_corpora_of_one_name_are_told_apart() -> None:
    found = difference(entry(), {**CONDITIONS, "corpus": "f00"}, "wikitext")
    assert found == "another corpus (wikitext, here wikitext, of the same name)"


@pytest.mark.parametrize(
    ("now", "passing"),
    [
        ((3, 7), {"same", "subset", "superset", "any"}),
        ((3,), {"subset", "any"}),
        ((3, 7, 9), {"superset", "any"}),
        ((3, 9), {"any"}),
        ((), {"subset", "any"}),
    ],
)
def test_outlier_dimensions_may_change_as_allowed(now: tuple[int, ...], passing: set[str]) -> None:
    then = [Flagged(dim=dim, layers=(0, 1)) for dim in (3, 7)]
    found = [Flagged(dim=dim, layers=(0, 1)) for dim in now]
    for allowed in ("same", "subset", "superset", "any"):
        verdict = outlier_verdict(then, found, allowed=allowed)
        assert bool(verdict) == (allowed in passing)
        assert verdict.details.outliers is not None
        assert verdict.details.outliers.appeared == tuple(sorted({*now} - {3, 7}))
        assert verdict.details.outliers.vanished == tuple(sorted({3, 7} - {*now}))


def test_dimensions_in_other_layers_are_told_and_do_not_fail() -> None:
    then, now = [Flagged(dim=3, layers=(0, 1))], [Flagged(dim=3, layers=(1,))]
    verdict = outlier_verdict(then, now)
    assert verdict
    assert "dimension 3 stands out in other layers" in verdict.reason


def loop_sums(now: CheckpointBaseline, then: CheckpointBaseline) -> tuple[float, float, float]:
    """The ratio of perplexities and both effects in nats, by a plain loop in float64."""
    nats, effects, tokens = 0.0, [0.0, 0.0], 0
    for i in range(min(len(now.tokens), len(then.tokens))):
        nats += now.nll_nats[i] - then.nll_nats[i]
        for place, side in enumerate((now, then)):
            effects[place] += side.ablations[0].nll_nats[i] - side.nll_nats[i]
        tokens += then.tokens[i]
    return math.exp(nats / tokens), effects[0], effects[1]


@given(perplexity=st.floats(0.5, 2), degradation=st.floats(1.5, 20), n=st.integers(1, 70))
@settings(max_examples=60, deadline=None)
def test_profiles_are_compared_on_common_text_blocks_as_a_loop_does(
    perplexity: float, degradation: float, n: int
) -> None:
    then = entry(n=64)
    whole = entry(n=n, perplexity_times=perplexity, degradation=degradation, seed=1)
    tokens = (*then.tokens, *whole.tokens[64:])[:n] if n > 64 else then.tokens[:n]
    now = entry(n=n, perplexity_times=perplexity, degradation=degradation, seed=1, tokens=tokens)
    found = compare_baselines(then, now, **TOLERANCES)
    assert set(found) == {"outliers", "perplexity", "dim7"}
    ratio, harm, harm_then = loop_sums(now, then)
    assert found["perplexity"].measured == pytest.approx(ratio, rel=1e-12)
    assert found["dim7"].measured == pytest.approx(harm / harm_then, rel=1e-12)
    assert bool(found["perplexity"]) == (ratio < 1.05)
    if found["dim7"].outcome != "not applicable":
        assert bool(found["dim7"]) == (0.5 <= harm / harm_then < 2)
    assert found["perplexity"].exact


def test_an_exact_verdict_says_what_it_is_exact_of() -> None:
    verdict = Verdict(
        outcome="pass",
        statement="x",
        measured=1.0,
        threshold=1.05,
        passes="below",
        seen=64,
        tokens=1000,
        exact=True,
        details=Details(reference=ReferenceFigures(text_blocks=64, then=5.0, now=5.0)),
    )
    assert "exactly, on all 64 text blocks" in verdict.explain()
    assert "that both have" in verdict.explain()


def test_a_profile_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="different labels"):
        Baseline(robustness="0", created="now", checkpoints=())
