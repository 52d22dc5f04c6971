"""Putting a section and entries into a model card, and leaving the rest of it as it is.

The front matter is edited as text, so that comments and quotes in it stay; what comes out is read
back, and refused if anything but ``model-index`` has changed.
"""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from robustness.errors import ReportError

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

BEGIN = "<!-- robustness:begin -->"
END = "<!-- robustness:end -->"

_FRONT_MATTER = re.compile(r"\A\s*---[ \t]*\r?\n(?P<yaml>.*?)^---[ \t]*(?:\r?\n|\Z)", re.S | re.M)
_KEY = re.compile(r"""^(["']?)model-index\1[ \t]*:""", re.M)
_NEXT = re.compile(r"""^(?:[^\s#\-]|-(?!\s|$))""", re.M)

TASK_NAME = "Outlier dimensions (pytest-robustness)"
"""By which the entries that an earlier run has left in a card are known."""


def new_card(name: str, section: str, results: "Sequence[EvalResult]") -> str:
    """Return a whole card of the model with this name."""
    title = re.sub(r"[^\w .-]+", "-", name)
    return updated(f"# {title}\n", name, section, results)


def updated(card: str, name: str, section: str, results: "Sequence[EvalResult]") -> str:
    """Return a card with the section and entries of this run instead of those of an earlier one.

    The name is the model's, where the card has no ``model-index`` yet.

    Raises:
        ReportError: its markers or its front matter are not what can be edited safely.
    """
    line_end = "\r\n" if "\r\n" in card else "\n"
    card = card.replace("\r\n", "\n")
    matter = _FRONT_MATTER.match(card)
    body = card[matter.end() :] if matter else f"\n{card}"
    front = _with_index(matter["yaml"] if matter else "", name, results)
    return f"---\n{front}---\n{_with_section(body, section)}".replace("\n", line_end)


def _with_section(card: str, section: str) -> str:
    whole = f"{BEGIN}\n{section}\n{END}"
    counts = card.count(BEGIN), card.count(END)
    if counts == (0, 0):
        return f"{card.rstrip()}\n\n{whole}\n" if card.strip() else f"{whole}\n"
    before, _, rest = card.partition(BEGIN)
    if counts != (1, 1) or END not in rest:
        raise ReportError(
            f"the card does not hold {BEGIN} and {END} once each, in this order, so it is not "
            "clear what to replace; remove them, or put both where the section shall stand"
        )
    return f"{before}{whole}{rest.partition(END)[2]}"


def _with_index(text: str, name: str, results: "Sequence[EvalResult]") -> str:
    metadata = _parsed(text)
    index = _merged(metadata.get("model-index"), name, results)
    edited = _replaced(text, _dumped({"model-index": index}))
    if _parsed(edited) != {**metadata, "model-index": index}:
        raise ReportError(
            "the card's front matter is written so that 'model-index' cannot be replaced without "
            "changing the rest; write it as a key of its own, in block style"
        )
    return edited


def _merged(metadata: Any, name: str, results: "Sequence[EvalResult]") -> list[dict[str, Any]]:
    """Return the index with our entries in it once, behind everything that others have entered."""
    from huggingface_hub.repocard_data import eval_results_to_model_index

    ((ours),) = eval_results_to_model_index(name, list(results))
    if metadata is None:
        return [ours]
    try:
        kept = [
            {**entry, "results": [one for one in entry["results"] if not _is_ours(one)]}
            for entry in metadata
        ]
    except (TypeError, KeyError, AttributeError):
        raise ReportError(
            "the card's 'model-index' is not a list of names with results; correct it first"
        ) from None
    if not kept:
        return [ours]
    kept[0]["results"] = [*kept[0]["results"], *ours["results"]]
    return kept


def _is_ours(result: Mapping[str, Any]) -> bool:
    return bool(result["task"].get("name") == TASK_NAME)


def _replaced(text: str, block: str) -> str:
    """Return the front matter with another block for the key, or with it at the end."""
    match = _KEY.search(text)
    if match is None:
        return f"{text}{'' if not text or text.endswith(chr(10)) else chr(10)}{block}"
    following = _NEXT.search(text, match.end())
    end = following.start() if following else len(text)
    comments = re.search(r"(?:^[ \t]*(?:#.*)?\n)+\Z", text[:end], re.M)
    if comments and comments.start() > match.start():  # they belong to the key that follows
        end = comments.start()
    return f"{text[: match.start()]}{block}{text[end:]}"


def _parsed(text: str) -> dict[str, Any]:
    import yaml

    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError):
        raise ReportError("the card's front matter is not valid YAML; correct it first") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ReportError("the card's front matter is not a table of keys; correct it first")
    return value


def _dumped(value: Mapping[str, Any]) -> str:
    import yaml

    text: str = yaml.safe_dump(dict(value), sort_keys=False, allow_unicode=True)
    return text
