"""JUnit XML of a merged run; a run of its own gets pytest's, with the same properties."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable

from robustness.report.results import CheckResult, Report
from robustness.statistics.verdict import Verdict

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_COUNTED = {"failure": "failures", "error": "errors", "skipped": "skipped"}


def render(report: Report) -> str:
    """Return a test case per check, and one for every other reason why the run is no success."""
    root = ET.Element("testsuites")
    suite = ET.SubElement(root, "testsuite", name="robustness")
    counts = dict.fromkeys(_COUNTED.values(), 0)
    for check in report.checks:
        kind = None if check.outcome == "pass" else "skipped"
        if not check.is_accepted:
            kind = "error" if check.outcome == "error" else "failure"
        _add(suite, check, kind)
        if kind is not None:
            counts[_COUNTED[kind]] += 1
    for number, problem in enumerate(report.problems, 1):
        case = ET.SubElement(suite, "testcase", classname="robustness", name=f"complete[{number}]")
        counts["errors"] += 1
        ET.SubElement(case, "error", message=_text(problem))
    suite.set("tests", str(len(report.checks) + len(report.problems)))
    suite.set("time", str(report.duration_s))
    for name, count in counts.items():
        suite.set(name, str(count))
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def properties(verdict: Verdict) -> Iterable[tuple[str, str | int | float]]:
    """Return a verdict's numbers as exact ``str``, ``int`` and ``float``: these may travel."""
    yield "verdict", str(verdict.outcome)
    if verdict.measured is not None:
        yield "measured", float(verdict.measured)
    if verdict.interval is not None:
        yield "interval_low", float(verdict.interval[0])
        yield "interval_high", float(verdict.interval[1])
    if verdict.threshold is not None:
        yield "threshold", float(verdict.threshold)
    yield verdict.unit.replace(" ", "_"), int(verdict.seen)
    yield "tokens", int(verdict.tokens)


def _add(suite: ET.Element, check: CheckResult, kind: str | None) -> None:
    file, _, name = check.id.partition("::")
    classname = file.removesuffix(".py").replace("/", ".")
    case = ET.SubElement(suite, "testcase", classname=_text(classname), name=_text(name))
    told = ET.SubElement(case, "properties")
    for key, value in properties(check):
        ET.SubElement(told, "property", name=key, value=_text(str(value)))
    if kind is not None:
        message = f"{check.outcome}: {check.statement}; {check.reason}"
        ET.SubElement(case, kind, message=_text(message))


def _text(text: str) -> str:
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)
