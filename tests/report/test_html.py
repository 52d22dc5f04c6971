"""The HTML report as text: self-contained, closed to the network, escaped; figures by their data.

What a browser makes of it is in test_html_in_browser.py.
"""

import base64
import json
import math
import re
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from robustness.cli.app import app
from robustness.errors import ReportError
from robustness.report import json_document
from robustness.report.conclusion import conclusion
from robustness.report.html.page import embedded, percent, render, running, section, token
from robustness.report.reporters import Reporter
from robustness.report.words import number
from tests.support.plugin.html_page import Page
from tests.support.records import full_reports as full

pytest.importorskip("plotly", reason="needs plotly (pip install 'pytest-robustness[html]')")


@pytest.fixture(scope="module")
def html() -> str:
    return render(full.run())


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


# --- the file ------------------------------------------------------------------------------------


def test_the_page_names_nothing_outside_of_itself(page: Page) -> None:
    for name in ("src", "srcset", "action", "formaction", "poster", "background", "object"):
        assert page.all(name) == []
    assert all(target.startswith(("#", "data:,")) for target in page.all("href"))
    assert not {"iframe", "img", "object", "embed", "base", "form"} & {tag for tag, _ in page.tags}


def test_the_policy_lets_only_the_two_scripts_of_the_page_run(page: Page) -> None:
    policy = next(a["content"] or "" for _, a in page.tags if a.get("http-equiv"))
    rules = dict(part.strip().partition(" ")[::2] for part in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["connect-src"] == rules["form-action"] == rules["base-uri"] == "'none'"
    assert "unsafe" not in rules["script-src"]
    _, *programs = page.scripts
    digests = [base64.b64encode(sha256(p.encode()).digest()).decode() for p in programs]
    assert rules["script-src"].split() == [f"'sha256-{digest}'" for digest in digests]


def test_headings_ids_and_tables_can_be_followed_without_eyes(page: Page) -> None:
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in pairwise(levels))
    assert page.all("id")
    assert page.parts_that_cannot_be_followed() == set()
    assert all(attrs.get("scope") for tag, attrs in page.tags if tag == "th")
    plots = [attrs for _, attrs in page.tags if attrs.get("class") == "plot"]
    assert len(plots) == 5 + len([check for check in full.checkpoint().checks if check.history]) - 2
    assert all(attrs["role"] == "img" and attrs["aria-label"] for attrs in plots)
    assert ("html", {"lang": "en"}) in page.tags


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(html: str, scheme: str) -> None:
    blocks = re.findall(r":root[^{]*\{(.*?)\}", html, re.DOTALL)
    colours = dict(re.findall(r"--([\w-]+): (#\w{6})", blocks[scheme == "dark"]))
    for name in ("ink", "muted", "link", "accent", "pass", "fail", "open", "threshold"):
        for ground in ("card", "page"):
            assert _contrast(colours[name], colours[ground]) >= 4.5, (name, ground)
    for name in ("pass", "fail", "open", "threshold"):
        assert _contrast(colours[name], colours["band"]) >= 3, name


def _contrast(one: str, other: str) -> float:
    """As WCAG 2.2 defines it."""

    def luminance(colour: str) -> float:
        parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_names_from_outside_stay_text() -> None:
    bad = full.HOSTILE
    point = full.checkpoint(
        label=bad,
        reference=bad,
        corpus=bad,
        notes=[bad],
        rule=bad,
        checks=[
            full.check("ablation_degrades", "fail", reason=bad, examples=(full.example(bad),)),
            full.control(),
        ],
        sites=full.sites().model_copy(update={"site": bad}),
    )
    html = render(full.run(point, point, command=bad, problems=[bad], policy=bad))
    page = Page(html)
    assert len(page.scripts) == 3
    assert not {"img", "b"} & {tag for tag, _ in page.tags}
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
    assert not [c for c in html if not c.isprintable() and c not in "\n\t" and c in bad]
    assert page.text.count("</script><img src=x onerror=pwned()><b>&amp;") >= 6
    shown = json.loads(page.scripts[0])["overview"]["layout"]["yaxis"]["ticktext"]
    assert not [text for text in shown if "<" in text or "\x1b" in text]


TEXTS = st.text() | st.sampled_from(["</script>", "<!--<script>", "]]>", "\u2028", "\ud800"])


@settings(max_examples=50)
@given(st.dictionaries(TEXTS, st.lists(TEXTS | st.integers() | st.none())))
def test_data_between_two_tags_cannot_end_or_begin_one(value: dict[str, Any]) -> None:
    text = embedded(value)
    assert json.loads(text) == value
    assert not re.search(r"[<>&\u2028\u2029\ud800-\udfff]", text)


def test_a_large_model_makes_a_page_below_6_megabytes() -> None:
    point = full.checkpoint(layers=24, hidden_size=1024)
    text = render(full.run(point))
    assert len(text.encode()) < 6e6
    (name, drawn), *_ = section(full.run(point), 0).figures.items()
    assert name.endswith("-map")
    assert np.shape(drawn["data"][0]["z"]) == (24, 1024)


def test_what_a_report_lacks_is_not_shown() -> None:
    checks = [check.model_copy(update={"history": ()}) for check in full.checkpoint().checks]
    point = full.checkpoint(checks=[checks[0], *checks[2:]], sites=None)  # no examples either
    page = Page(render(full.run(point, command=None)))
    assert "What switching dimensions off does" in page.text
    for missing in ("How each decision narrowed", "What the model says", "Exact command"):
        assert missing not in page.text


def test_what_is_shown_of_a_run_that_failed() -> None:
    failing = full.check(outcome="fail", measured=1.01, interval=(1.0, 1.02), reason="too little")
    text = Page(
        render(
            full.run(
                full.checkpoint(checks=[failing, full.control()]),
                passed=False,
                partial=True,
                exit_status=1,
                problems=["a verdict is missing"],
            )
        )
    ).text
    for sentence in ("PARTIAL.", "a verdict is missing", "too little", "FAIL: "):
        assert sentence in text


def test_a_checkpoint_without_a_decided_check_is_shown() -> None:
    point = full.checkpoint(checks=[], outliers=[], agreement=[], intact=None)
    assert (
        "NOT VETTED: no check of this checkpoint was decided" in Page(render(full.run(point))).text
    )


# --- sentences -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.2049, "1.205"),
        (64810.4, "64,810"),
        (1.518e6, "1.52×10⁶"),
        (6.5e-28, "6.50×10⁻²⁸"),
        (-0.5, "−0.5"),
        (0.0, "0"),
        (math.inf, "∞"),
        (None, "–"),
    ],
)
def test_numbers_for_people(value: float | None, text: str) -> None:
    assert number(value) == text


def test_tokens_that_are_only_blanks_are_seen_and_told_apart() -> None:
    assert token(" France") == token("France") == "France"
    assert (token("\n"), token("\n\n"), token("  ")) == ("↵", "↵↵", "␣")
    assert running("Rivers\n\nA river is") == "Rivers ↵ A river is"


@pytest.mark.parametrize(
    ("p", "text"),
    [(0.0, "< 0.1 %"), (0.02, "2.0 %"), (0.931, "93 %"), (0.9962, "99.6 %"), (0.99999, "> 99.9 %")],
)
def test_a_probability_is_never_rounded_to_certainty(p: float, text: str) -> None:
    assert percent(p) == text


def test_the_verdict_is_one_sentence() -> None:
    (point,) = full.run().checkpoints
    assert conclusion(point) == (
        "PASS: its outlier dimension is 7; ablating it multiplies perplexity by ∞; ablating a "
        "random one multiplies perplexity by 1.01."
    )


# --- robustness report ---------------------------------------------------------------------------


def _report(folder: Path, text: str, *options: str) -> Any:
    file = folder / "result.json"
    file.write_text(text)
    return CliRunner().invoke(app, ["report", str(file), *options])


def saved(*, of_checkpoint: dict[str, Any] | None = None, **changes: Any) -> str:
    """The JSON of a run, with something else in it."""
    found = json_document.as_json(full.run())
    found["checkpoints"][0] |= of_checkpoint or {}
    return json.dumps({**found, **changes})


def test_a_saved_result_becomes_a_page(tmp_path: Path, html: str) -> None:
    page = tmp_path / "out" / "report.html"
    result = _report(tmp_path, saved(), f"--html={page}")
    assert result.exit_code == 0, result.output
    assert page.read_text() == html


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "cannot be read"),
        ("[1]", "not the JSON report"),
        ("{}", "not the JSON report"),
        ('{"a": NaN}', "cannot be read"),
        ('{"a": 1e999}', "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        (saved(schema=1), "has schema 1, and this version reads schema 3: vet again"),
        ('{"schema": 1}', "has schema 1, and this version reads schema 3: vet again"),
        (saved(schema=99), "has schema 99, and this version reads schema 3: read it with a newer"),
        (saved(of_checkpoint={"block_size": "\x1b[31m"}), "block_size"),
        (saved(of_checkpoint={"checks": [{"id": "x"}]}), "checks"),
        (saved(of_checkpoint={"perplexity": 3.0}), "perplexity"),
    ],
)
def test_what_is_no_result_is_refused_in_one_sentence(tmp_path: Path, text: str, word: str) -> None:
    page = tmp_path / "report.html"
    result = _report(tmp_path, text, f"--html={page}")
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert word in line
    assert line.isprintable()
    assert not page.exists()


def test_a_report_has_to_be_asked_for_and_written(tmp_path: Path) -> None:
    assert "nothing to write" in _report(tmp_path, saved()).stderr
    (tmp_path / "file").touch()
    result = _report(tmp_path, saved(), f"--html={tmp_path}/file/report.html")
    assert result.exit_code == 2
    assert "could not be written" in result.stderr


def test_ragged_or_missing_matrices_are_left_out(tmp_path: Path) -> None:
    sites = json.loads(saved())["checkpoints"][0]["sites"]
    sites["scale_z"][0] = [1.0]
    text = saved(of_checkpoint={"sites": {**sites, "bias": None}})
    result = _report(tmp_path, text, f"--html={tmp_path}/report.html")
    assert result.exit_code == 0, result.output


def test_missing_packages_are_named() -> None:
    needy = Reporter(name="html", module="", needs=("jinja2", "plotly_is_not_here"), extra="html")
    with pytest.raises(ReportError, match=r"needs plotly_is_not_here.*pip install 'pytest-"):
        needy.require_packages()
