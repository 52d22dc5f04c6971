"""A run's JSON report, read back for a card."""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from robustness.errors import ReportError
from robustness.report.facts import SCHEMA

MOST_BYTES = 256 * 1024**2


class _Loose(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True, frozen=True)


class _Mark(_Loose):
    expired: bool
    expires: str
    reason: str


class _Check(_Loose):
    check: str
    verdict: str
    dims: list[int]
    ratio: float | str | None
    interval: list[float | str] | None
    threshold: float | None
    passes: str | None
    exact: bool
    text_blocks: int
    expected_failure: _Mark | None
    details: dict[str, Any]


class _Outlier(_Loose):
    dim: int
    layers: list[int]
    z_scale: list[float | str] | None
    z_bias: list[float | str] | None


class _Checkpoint(_Loose):
    label: str
    reference: str
    revision: str
    architecture: str
    layers: int
    hidden_size: int
    scoring: str
    profile: str
    site: str
    mode: str
    seed: int
    block_size: int
    exhaustive: bool
    corpus: str
    corpus_text_blocks: int
    quantity: str
    perplexity: float | str | None
    perplexity_text_blocks: int
    perplexity_tokens: int
    rule: str
    outliers: list[_Outlier]
    checks: list[_Check]


class _Report(_Loose):
    robustness: str
    versions: dict[str, str]
    started: str
    confidence: float
    policy: str | None
    partial: bool
    passed: bool
    problems: list[str]
    shard: dict[str, Any] | None = None
    checkpoints: list[_Checkpoint]


def read_result(file: Path) -> dict[str, Any]:
    """Read the JSON report of a run, or of merged shards.

    Raises:
        ReportError: one sentence on why it cannot be read.
    """
    try:
        if not file.is_file():
            raise ReportError(f"{file} is no file; name the JSON report of a run")
        if file.stat().st_size > MOST_BYTES:
            raise ReportError(f"{file} is larger than a report may be")
        text = file.read_bytes()
        facts: Any = json.loads(text)
        if not isinstance(facts, dict) or facts.get("schema") != SCHEMA:
            raise ReportError(
                f"{file} is not a report of schema {SCHEMA}, as --robustness-json=FILE writes it"
            )
        TypeAdapter(_Report).validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))[:80]
        raise ReportError(f"{file} is not a run's report: {place}: {first['msg'][:200]}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ReportError(f"{file} cannot be read: {str(error)[:200]}") from None
    return facts
