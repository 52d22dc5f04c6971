"""What GitHub Actions shows of a run: annotations, and the summary of the job.

Annotations are *workflow commands*: lines of standard output. Their syntax and escapes are those
of GitHub's runner (``ActionCommand`` in actions/runner) and toolkit. A step may have ten of each
kind; its summary may have 1 MiB, with what others have written into it, or is dropped as a whole.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

from robustness.report.cells import checkpoints_in_order
from robustness.report.conclusion import conclusion
from robustness.report.markdown import page
from robustness.report.markdown.text import SENTENCE, escaped
from robustness.report.results import Report
from robustness.runtime.plain import plain

Kind: TypeAlias = Literal["error", "warning", "notice"]

MODES = ("auto", "always", "never")
MOST = 10
"""Annotations of one kind that GitHub shows of a step."""
SUMMARY = "GITHUB_STEP_SUMMARY"
"""The environment variable that names the file of the summary."""

_TITLE, _MESSAGE = 200, 1000
"""Characters of each."""


def is_wanted(mode: str, environ: Mapping[str, str]) -> bool:
    """Tell whether to write anything for GitHub; ``auto`` does in its jobs."""
    return mode == "always" or (mode == "auto" and environ.get("GITHUB_ACTIONS") == "true")


def render(report: Report) -> str:
    """Return the annotations, a line each."""
    return "".join(f"{line}\n" for line in annotations(report))


def publish(report: Report, environ: Mapping[str, str]) -> list[str]:
    """Append a run to the summary of its job.

    Returns:
        Lines for standard output: the annotations, and a warning if there could be no summary,
        which has no part in the verdict.
    """
    return [*annotations(report), *_summarised(environ, lambda room: page.render(report, room))]


def publish_refusal(sentence: str, environ: Mapping[str, str]) -> list[str]:
    """Tell in the same places why a run was refused before it began."""
    text = f"## Checkpoint vetting: refused\n\nNothing ran: {escaped(sentence, SENTENCE)}\n"
    return [
        command("error", "robustness: refused", sentence),
        *_summarised(environ, lambda room: text if len(text.encode()) <= room else ""),
    ]


def annotations(report: Report) -> list[str]:
    """Return one per checkpoint, the worst first, after one on what is wrong with the whole run."""
    messages: dict[Kind, list[tuple[str, str]]] = {"error": [], "warning": [], "notice": []}
    for kind, title, message in _told(report):
        messages[kind].append((title, message))
    for told in messages.values():
        if (rest := len(told) - MOST + 1) > 1:
            told[MOST - 1 :] = [("robustness", f"and {rest} more, in the job summary and the log")]
    return [command(kind, *parts) for kind, told in messages.items() for parts in told]


def command(kind: Kind, title: str, message: str) -> str:
    """Return a workflow command: one line, whatever title and message hold."""
    title = plain(title, limit=_TITLE).replace("%", "%25")
    title = title.replace(":", "%3A").replace(",", "%2C")
    message = plain(message, limit=_MESSAGE).replace("%", "%25")  # CR and LF are escapes by now
    return f"::{kind} title={title}::{message}"


def as_output(lines: Sequence[str], encoding: str | None) -> str:
    """Return the lines, each on one of its own, as a stream takes them."""
    codec = encoding or "utf-8"
    text = "".join(f"\n{line}" for line in lines)
    return text.encode(codec, "backslashreplace").decode(codec) + "\n"


def _told(report: Report) -> Iterator[tuple[Kind, str, str]]:
    problems = report.problems
    if problems:
        more = f" (and {len(problems) - 1} more problems)" if len(problems) > 1 else ""
        yield "error", f"robustness: {page.run_verdict(report)}", f"{problems[0]}{more}"
    if report.partial and report.vetted:
        message = "planned checks were left out; this run is no release verdict"
        yield "warning", "robustness: partial", message
    for checkpoint in checkpoints_in_order(report.vetted):
        sentence = conclusion(checkpoint, partial=report.partial)
        failing = any(check.outcome == "fail" for check in checkpoint.checks)
        kind: Kind = "error" if checkpoint.refused else "warning" if failing else "notice"
        yield kind, f"robustness: {checkpoint.label}", sentence


def _summarised(environ: Mapping[str, str], text_for: Callable[[int], str]) -> list[str]:
    """Append what there is room for, and return what went wrong as annotations."""
    name = environ.get(SUMMARY)
    if not name:
        return []
    file = Path(name)
    try:
        there = file.stat().st_size if file.exists() else 0
        text = text_for(page.MOST_BYTES - there - 1)
        if not text:
            return [_no_summary(f"there are {there:,} bytes in it already, and GitHub takes 1 MiB")]
        with file.open("a", encoding="utf-8") as summary:
            summary.write(f"\n{text}" if there else text)
    except OSError as error:
        return [_no_summary(str(error))]
    return []


def _no_summary(why: str) -> str:
    message = f"the job summary could not be written: {why}; the verdict stands all the same"
    return command("warning", "robustness: no job summary", message)
