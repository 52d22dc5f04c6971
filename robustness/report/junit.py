"""JUnit XML of a merged run; a run of its own gets pytest's."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from typing import Any

from robustness.report.facts import is_accepted

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def to_junit(facts: Mapping[str, Any]) -> str:
    """One test case per check, and one for every other reason why the run is no success."""
    checks = [check for checkpoint in facts["checkpoints"] for check in checkpoint["checks"]]
    root = ET.Element("testsuites")
    suite = ET.SubElement(root, "testsuite", name="robustness")
    counts = dict.fromkeys(("failures", "errors", "skipped"), 0)
    for check in checks:
        file, _, name = check["id"].partition("::")
        classname = file.removesuffix(".py").replace("/", ".")
        case = ET.SubElement(suite, "testcase", classname=_text(classname), name=_text(name))
        properties = ET.SubElement(case, "properties")
        for key in ("verdict", "ratio", "threshold", "text_blocks", "tokens"):
            if check[key] is not None:
                ET.SubElement(properties, "property", name=key, value=_text(str(check[key])))
        kind = _kind(check)
        if kind is not None:
            counts[{"failure": "failures", "error": "errors", "skipped": "skipped"}[kind]] += 1
            message = f"{check['verdict']}: {check['statement']}; {check['reason']}"
            ET.SubElement(case, kind, message=_text(message))
    for number, problem in enumerate(facts["problems"], 1):
        case = ET.SubElement(suite, "testcase", classname="robustness", name=f"complete[{number}]")
        counts["errors"] += 1
        ET.SubElement(case, "error", message=_text(problem))
    suite.set("tests", str(len(checks) + len(facts["problems"])))
    suite.set("time", str(facts["duration_s"]))
    for name, count in counts.items():
        suite.set(name, str(count))
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _kind(check: Mapping[str, Any]) -> str | None:
    if not is_accepted(check):
        return "error" if check["verdict"] == "error" else "failure"
    return None if check["verdict"] == "pass" else "skipped"


def _text(text: str) -> str:
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)
