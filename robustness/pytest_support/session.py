"""Which parts of the plugin a process of the run gets."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from robustness.plan import RunPlan
from robustness.pytest_support.collection import SuiteCollection
from robustness.pytest_support.controller import (
    PLAN_INPUT,
    PROGRESS_INPUT,
    SUITE_INPUT,
    Controller,
)
from robustness.pytest_support.progress import FileProgress
from robustness.pytest_support.recorder import Recorder
from robustness.pytest_support.state import STATE, RunState, cores


def register(config: pytest.Config) -> None:
    """Add the parts that a run with a checkpoint needs."""
    workerinput: dict[str, Any] | None = getattr(config, "workerinput", None)
    config.pluginmanager.register(Recorder(), "robustness-recorder")
    if workerinput is None:
        suite = config.args_source is not pytest.Config.ArgsSource.ARGS
        config.pluginmanager.register(Controller(config, suite=suite), "robustness-controller")
    else:
        suite = workerinput[SUITE_INPUT]
        config.stash[STATE] = RunState(
            plan=RunPlan.from_json(workerinput[PLAN_INPUT]),
            threads=max(1, cores() // workerinput["workercount"]),
            progress=FileProgress(Path(workerinput[PROGRESS_INPUT]) / workerinput["workerid"]),
        )
    if suite:
        config.pluginmanager.register(SuiteCollection(), "robustness-suite")


def refuse_rootdir_in_model_folder(config: pytest.Config, args: Sequence[str]) -> None:
    """Never run with a checkpoint's folder as root: its conftest.py or ini file would be code.

    pytest takes ``./folder`` in ``--model ./folder`` for a test path before plugins are loaded.

    Raises:
        pytest.UsageError: if the root directory or ini file lies inside a model folder.
    """
    for text in _model_arguments(args):
        folder = Path(text).expanduser()
        if not folder.is_dir():
            continue
        places = [config.rootpath, *([config.inipath] if config.inipath else [])]
        if any(place.resolve().is_relative_to(folder.resolve()) for place in places):
            raise pytest.UsageError(
                f"robustness: pytest's root directory lies inside the checkpoint's folder {text}, "
                f"so files in it would be run as code; write --model={text} with the equals sign, "
                "and run from another folder"
            )


def _model_arguments(args: Sequence[str]) -> list[str]:
    found = []
    for position, argument in enumerate(args):
        name, equals, value = str(argument).partition("=")
        if name in ("--model", "--robustness-model"):
            found.append(value if equals else "".join(map(str, args[position + 1 : position + 2])))
    return [text for text in found if text]
