"""Which parts of the plugin a process of the run gets."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from robustness.pytest_support.collection import ModelFolders, PlannedChecks, SuiteCollection
from robustness.pytest_support.controller import WORKER_INPUT, Controller, GitHub
from robustness.pytest_support.gate import Recorder
from robustness.pytest_support.handover import received
from robustness.pytest_support.progress import FileProgress
from robustness.pytest_support.state import STATE, RunState
from robustness.report import github
from robustness.run.plan import RunPlan
from robustness.runtime.threads import SharedCores, cores, wait_asleep, wanted_at_most


def register(config: pytest.Config) -> None:
    """Add the parts that a run with a checkpoint needs."""
    workerinput: dict[str, Any] | None = getattr(config, "workerinput", None)
    config.pluginmanager.register(Recorder(), "robustness-recorder")
    if workerinput is None:
        suite = config.args_source is not pytest.Config.ArgsSource.ARGS
        controller = Controller(config, suite=suite)
        config.pluginmanager.register(controller, "robustness-controller")
        if github.is_wanted(config.getoption("robustness_github"), os.environ):
            config.pluginmanager.register(GitHub(controller), "robustness-github")
    else:
        plan, suite, shared, controller_pid = workerinput[WORKER_INPUT]
        folder = Path(shared)
        number = int(workerinput["workerid"].removeprefix("gw"))
        wait_asleep(os.environ)
        config.stash[STATE] = RunState(
            plan=RunPlan.from_json(plan or received(folder, controller_pid)),
            threads=SharedCores(
                folder=folder / "cores",  # where workers tell each other that they compute
                number=number,
                processes=workerinput["workercount"],
                cores=cores(),
                most=wanted_at_most(os.environ),
            ),
            worker=number,
            progress=FileProgress(folder / workerinput["workerid"]),
        )
    config.pluginmanager.register(PlannedChecks(), "robustness-planned-checks")
    folders = _folders(config.getoption("robustness_models"))
    config.pluginmanager.register(ModelFolders(folders.values()), "robustness-model-folders")
    if suite:
        config.pluginmanager.register(SuiteCollection(), "robustness-suite")


def refuse_code_in_model_folders(config: pytest.Config, args: Sequence[str]) -> None:
    """Never run a checkpoint's ``conftest.py`` or read its ini file: they would be code.

    pytest takes ``./folder`` in ``--model ./folder`` for a test path before plugins are loaded, and
    imports ``test*/conftest.py`` below the folder it is started in.
    """
    named = [Path(text.partition("::")[0]) for text in config.known_args_namespace.file_or_dir]
    places = [config.rootpath, *([config.inipath] if config.inipath else []), *named]
    starts = {place.resolve() for place in (Path.cwd(), config.rootpath, *named)}
    for text, folder in _folders(_model_arguments(args)).items():
        if any(place.resolve().is_relative_to(folder) for place in places):
            raise pytest.UsageError(
                f"robustness: pytest would look for tests in the checkpoint's folder {text}, so "
                f"files in it would be run as code; write --model={text} with the equals sign, "
                "and run from another folder"
            )
        imported = folder.name.startswith("test") and (folder / "conftest.py").exists()
        if imported and folder.parent in starts:
            raise pytest.UsageError(
                f"robustness: the checkpoint's folder {text} holds a conftest.py that pytest would "
                "run, since the folder's name begins with 'test'; run from another folder"
            )


_NAMING = ("--model", "--robustness-model", "--reference", "--robustness-reference")
"""Options that name a checkpoint."""


def _folders(references: Sequence[str]) -> dict[str, Path]:
    """The references that are folders, resolved."""
    paths = {text: Path(os.path.expanduser(text)) for text in references}  # noqa: PTH111
    return {text: path.resolve() for text, path in paths.items() if path.is_dir()}


def _model_arguments(args: Sequence[str]) -> list[str]:
    references = []
    for position, argument in enumerate(args):
        name, equals, value = str(argument).partition("=")
        if name in _NAMING:
            references.append(
                value if equals else "".join(map(str, args[position + 1 : position + 2]))
            )
    return [text for text in references if text]
