"""``--robustness-html`` on stub checkpoints: the page of a run, also of one that fails."""

import json
import re
from html import unescape
from pathlib import Path

import pytest

from tests.support.plugin.plugin_support import (
    Run,
    Stubs,
    error_sentence,
    run_pytest,
    run_suite,
    slowly_with_workers,
    stubs,
    text_of,
)

__all__ = ["stubs"]

pytest.importorskip("plotly", reason="needs plotly (pip install 'pytest-robustness[html]')")


def _text(file: Path) -> str:
    """A page's words."""
    body = re.sub(r"<(script|style).*?</\1>", "", file.read_text(), flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", body)).split())


@slowly_with_workers
def test_a_run_that_fails_writes_its_page(
    stubs: Stubs, tmp_path: Path, state: tuple[str, ...]
) -> None:
    (tmp_path / "robustness.toml").write_text("[checks.joint_ablation_degrades]\nmin_ratio = 1e9\n")
    options = (*stubs.options, *state, "--robustness-html=out/report.html")
    run: Run = run_suite(tmp_path, *options)
    assert run.result.ret == pytest.ExitCode.TESTS_FAILED
    text = _text(tmp_path / "out" / "report.html")
    assert "The checkpoint did not pass." in text
    assert "FAIL: joint ablation degrades (dim " in text
    assert "--robustness-html=out/report.html" in text  # the exact command
    assert run.facts["problems"] == []
    figures = json.loads(
        re.findall(
            r'id="figures">(.*?)</script>',
            (tmp_path / "out" / "report.html").read_text(),
            re.DOTALL,
        )[0]
    )
    drawn = figures["checkpoint-1-degradation"]["data"][-1]["x"]
    joint = next(c for c in run.facts["checkpoints"][0]["checks"] if "joint" in c["check"])
    assert drawn[1] == joint["measured"]
    site = run.facts["checkpoints"][0]["sites"]
    assert figures["checkpoint-1-map"]["data"][0]["z"] == [
        [round(z, 2) for z in row] for row in site["scale_z"]
    ]


@pytest.mark.parametrize(
    ("name", "words"),
    [("folder", "--robustness-html=folder cannot be written"), ("", "pip install 'pytest-rob")],
    ids=["unwritable", "without plotly"],
)
def test_a_page_that_could_not_be_written_is_refused_before_the_run(
    stubs: Stubs, tmp_path: Path, name: str, words: str
) -> None:
    (tmp_path / "folder").mkdir()
    if not name:
        (tmp_path / "conftest.py").write_text(
            "from robustness.report.reporters import REPORTERS\n"
            "object.__setattr__(REPORTERS['html'], 'needs', ('plotly_is_not_here',))\n"
        )
    page = name or "report.html"
    result = run_pytest(tmp_path, *stubs.options, f"--robustness-html={page}")
    assert words in error_sentence(result)


def test_a_page_that_cannot_be_written_in_the_end_fails_the_run(
    stubs: Stubs, tmp_path: Path
) -> None:
    (tmp_path / "conftest.py").write_text(
        """
from pathlib import Path

def pytest_sessionfinish():
    Path("reports").rmdir()
    Path("reports").write_text("in the way")
"""
    )
    (tmp_path / "reports").mkdir()
    options = ("--robustness-html=reports/report.html", "--robustness-json=report.json")
    result = run_pytest(tmp_path, *stubs.options, *options)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert "Traceback" not in text_of(result)
    told = "--robustness-html=reports/report.html could not be written: "
    assert told in text_of(result)
    facts = json.loads((tmp_path / "report.json").read_text())
    assert told in facts["problems"][0]
    assert not facts["passed"]
