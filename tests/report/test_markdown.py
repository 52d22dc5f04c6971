"""The Markdown report: what it says, that names in it are only text, and that it stays small."""

import html
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from robustness.report.cells import checkpoints_in_order, margin, worst_check
from robustness.report.markdown.page import MOST_BYTES, render
from robustness.report.markdown.text import code, escaped
from robustness.report.results import Report
from robustness.runtime.plain import plain
from tests.support.records.run_reports import HOSTILE, check, checkpoint, run, shard

HOSTILE_TEXT = st.one_of(
    st.sampled_from(HOSTILE),
    st.lists(st.sampled_from(HOSTILE), max_size=3).map("".join),
    st.text(min_size=1, max_size=40),
).filter(bool)


def rendered(markdown: str) -> Any:
    """Tokens of a parser of CommonMark and GitHub's tables, with HTML."""
    parser = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    return parser.parse(markdown)


def structure(markdown: str) -> list[str]:
    """Everything but the text."""
    found = []
    for token in rendered(markdown):
        found.append(f"{token.type} {token.tag} {token.attrs}")
        for child in token.children or ():
            if child.type == "html_inline":
                found.append(child.content)
            elif child.type != "text":
                found.append(f"{child.type} {child.tag} {child.attrs}")
    return found


def shown(markdown: str) -> str:
    """The text that a reader sees."""
    return "".join(
        child.content
        for token in rendered(markdown)
        for child in token.children or ()
        if child.type in ("text", "text_special")
    )


def named(text: str) -> Report:
    """A run in which every text from outside is this one."""
    one = checkpoint(
        label=text,
        reference=text,
        revision=text,
        architecture=text,
        corpus=text,
        notes=[text],
        checks=[check("fail", reason=text)],
    )
    other = checkpoint(label="other", checks=[check(), check("error", reason=text)])
    return run(one, other, problems=[text], policy=text, command=text)


def test_a_run_says_what_it_came_to() -> None:
    text = render(run(checkpoint("good"), checkpoint("bad", checks=[check("fail"), check()])))
    assert text.startswith("## Checkpoint vetting: did not pass\n")
    assert text.index("<code>bad</code>") < text.index("<code>good</code>")
    assert "FAIL: joint ablation degrades (dim 7): fail, measured" in text
    assert "PASS: its outlier dimension is 7; ablating it multiplies perplexity by" in text
    assert "| 7 | 2 of 2: 0-1 | scale +5.0 std, bias +9.0 std |" in text
    assert shown(text).count("Where this comes from") == 0  # in HTML, behind which the rest folds
    assert text.count("<details>") == text.count("</details>") == 2


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "passed"),
        ({"exit_status": 1, "passed": False}, "did not pass"),
        ({"problems": ["x gave no verdict"], "passed": False}, "did not pass"),
        ({"partial": True, "passed": False}, "partial"),
        ({"shard": shard(1, 3), "passed": False}, "nothing failed in shard 1/3"),
        ({"passed": False}, "nothing was vetted"),
    ],
)
def test_only_a_pass_is_called_one(changes: dict[str, Any], said: str) -> None:
    text = render(run(checkpoint(), **changes))
    assert text.splitlines()[0] == f"## Checkpoint vetting: {said}"
    assert ("no release verdict" in text) == ("partial" in changes)
    assert ("`robustness merge` gives the verdict" in text) == ("shard" in changes)


def test_the_worst_comes_first() -> None:
    checks = [
        check("pass", measured=9.0),
        check("not applicable", measured=None),
        check("fail", measured=1.4),
        check("fail", measured=1.1),
        check("inconclusive"),
    ]
    assert worst_check(checks) is checks[3]  # of two that fail the one that is further off
    assert worst_check(checks[:2]) is checks[1]
    assert worst_check([checks[4], checks[0]]) is checks[4]
    assert worst_check([check("error", measured=None), *checks]).outcome == "error"
    points = [checkpoint("a"), checkpoint("b", checks=checks), checkpoint("c", checks=checks[4:])]
    assert [point.label for point in checkpoints_in_order(points)] == ["b", "c", "a"]


@given(ratio=st.floats(allow_nan=True), passes=st.sampled_from(["above", "below"]))
def test_a_margin_is_positive_where_a_check_passes(ratio: float, passes: str) -> None:
    found = margin(check(measured=ratio, threshold=1.5, passes=passes))
    if ratio != ratio:
        assert found == float("-inf")
    elif abs(ratio - 1.5) > 1e-9:
        assert (found > 0) == ((ratio > 1.5) == (passes == "above"))


@settings(deadline=None)
@given(text=HOSTILE_TEXT)
def test_names_are_text_whatever_they_hold(text: str) -> None:
    markdown = render(named(text))
    assert structure(markdown) == structure(render(named("name")))
    visible = shown(markdown)
    assert visible.count(html_free(plain(text, limit=200))) >= 3
    for line in markdown.splitlines():
        assert not line.lstrip().startswith("::")
        assert "##[" not in line
    assert markdown.replace("\n", "").isprintable()


def html_free(text: str) -> str:
    """As a reader sees it: blanks around a paragraph's text do not count."""
    return text.strip()


@settings(deadline=None)
@given(text=HOSTILE_TEXT)
def test_escaped_text_reads_as_it_was(text: str) -> None:
    for markdown in (f"x {escaped(text)} x", f"| a |\n|---|\n| x {escaped(text)} x |"):
        assert f"x {plain(text, limit=200)} x" in shown(markdown)
    assert html.unescape(code(text)) == f"<code>{plain(text, limit=200)}</code>"


def test_a_large_run_stays_within_the_limit_and_says_what_is_missing() -> None:
    points = [
        checkpoint(f"{n}-{'x' * 150}", checks=[check(reason="y" * 500) for _ in range(9)])
        for n in range(900)
    ]
    points[700] = checkpoint("the worst", checks=[check("fail")])
    report = run(*points, problems=["z" * 5000] * 200)
    for limit in (MOST_BYTES, 200_000, 60_000, 200, 30):
        text = render(report, limit)
        assert len(text.encode()) <= limit
        if limit >= 60_000:
            found = re.search(r"room: (\d+) checkpoints, and the details of (\d+) more", text)
            assert found is not None
            sections = text.count("\n### ")
            assert sections + int(found[1]) == 900
            assert text.count("<details>") == sections - int(found[2])
            assert "and 150 more, all in the JSON report" in text
            assert "<code>the worst</code>" in text
    assert render(report, 200).startswith("## Checkpoint vetting: did not pass")
    assert render(report, 30) == ""


def test_a_command_that_is_not_known_is_not_shown() -> None:
    assert "command" in render(run(checkpoint()))
    assert "command" not in render(run(checkpoint(), command=None))
