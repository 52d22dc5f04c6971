"""Policies read from files that a test writes."""

from pathlib import Path
from typing import Any

import pytest

from robustness.errors import PolicyError
from robustness.policy.policy import Policy, load_policy


def policy(folder: Path, text: str, name: str = "robustness.toml", **options: Any) -> Policy:
    """What a file of that name in the root folder makes."""
    (folder / name).write_text(text)
    return load_policy(None, folders=[folder], options=options)


def refusal(folder: Path, text: str, name: str = "robustness.toml", **options: Any) -> str:
    with pytest.raises(PolicyError) as caught:
        policy(folder, text, name, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message
