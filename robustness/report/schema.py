"""The JSON Schema of the report: ``python -m robustness.report.schema docs/report.schema.json``."""

import inspect
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robustness.report.results import SCHEMA, Report
from robustness.statistics.verdict import Verdict

_INHERITED = {"CheckResult": inspect.getdoc(Verdict)}
"""Docstrings of what a model's other fields come from."""
_SOMETIMES = ("Details",)
"""Models that leave out what they have none of."""
_ATTRIBUTE = re.compile(r"^    (\w+): (.*(?:\n     .*)*)", re.MULTILINE)


def schema_text() -> str:
    """Return the schema as the file in ``docs`` holds it."""
    whole = Report.model_json_schema(by_alias=True)
    models = {name: _described(model, name) for name, model in whole.pop("$defs").items()}
    document = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"Report of pytest-robustness, schema {SCHEMA}",
        **_described(whole, "Report"),
        "$defs": models,
    }
    return json.dumps(document, indent=2) + "\n"


def _described(model: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a model whose properties have what its docstring says of each."""
    described = {key: value for key, value in model.items() if key != "title"}
    if "properties" not in model:
        return described
    own = inspect.cleandoc(model.get("description", ""))
    told = {
        key.removesuffix("_"): " ".join(words.split())
        for text in (_INHERITED.get(name) or "", own)
        for key, words in _ATTRIBUTE.findall(text.partition("Attributes:")[2])
    }
    described["description"] = " ".join(own.partition("Attributes:")[0].split())
    described["properties"] = {
        key: {
            **({"description": told[key]} if key in told else {}),
            **{word: value for word, value in each.items() if word != "title"},
        }
        for key, each in model["properties"].items()
    }
    if name not in _SOMETIMES:  # a reader may leave more out than the writer does
        described["required"] = [key for key in model["properties"] if key != "sha256"]
    return described


def main() -> None:
    """Write it to the file that is named."""
    (file,) = map(Path, sys.argv[1:])
    file.write_text(schema_text(), encoding="utf-8")


if __name__ == "__main__":
    main()
