"""What the machines of a cluster are asked: one task per checkpoint, each a shard of the run."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from robustness.checkpoint.reference import CheckpointRef, unique_labels
from robustness.corpus.tables import existing_path
from robustness.errors import CheckpointError, CorpusError, FleetError
from robustness.run.shards import Part

REPORT = "report.json"
"""The shard's report, in the folder that the task runs in."""

_OWN = ("--model", "--robustness-model", "--robustness-shard", "--robustness-json")
_OPTIONS = ("corpus", "policy", "reference", "expectation", "device", "store")
_REFUSED = ("--robustness-save-baseline", "--robustness-plan")


@dataclass(frozen=True, kw_only=True)
class Request:
    """A run as the user asks for it: what pytest's options of these names say.

    Files of corpus, policy and profiles are sent along; the store is a folder on the nodes.
    """

    checkpoints: tuple[str, ...]
    corpus: str | None = None
    policy: Path | None = None
    reference: str | None = None
    expectation: str | None = None
    device: str | None = None
    store: Path | None = None
    pytest_arguments: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Task:
    """One checkpoint's part of the run, which needs some paths where it runs."""

    part: Part
    name: str
    arguments: tuple[str, ...]
    needs: tuple[str, ...]
    threads: int

    def __str__(self) -> str:
        """For messages."""
        return f"{self.name} (shard {self.part})"


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """The tasks of a run, and the content of files by their path where each task runs."""

    tasks: tuple[Task, ...]
    files: Mapping[str, bytes]


def fleet_of(request: Request, *, threads: int) -> Fleet:
    """Divide a run into tasks.

    Every task names all checkpoints, since all verdicts of the run share one error probability; it
    vets its own. Corpus, policy and profiles are sent along if they are files here; checkpoints are
    not, so every node must reach them by the same name.

    Raises:
        FleetError: if the request cannot be passed on as it is.
    """
    _require_passable(request.pytest_arguments)
    references = [_on_every_node(reference) for reference in request.checkpoints]
    if not references:
        raise FleetError("a fleet needs a checkpoint: name a Hub id or a folder")
    files, corpus, folders = _with_corpus(request.corpus)
    policy = _sent(files, "policy", request.policy)
    reference = request.reference
    if reference is not None and reference.lower().endswith(".json"):
        reference = _sent(files, "reference", Path(reference))
    elif reference is not None:
        reference = _on_every_node(reference)
    store = None if request.store is None else _absolute(request.store)
    there = {"corpus": corpus, "policy": policy, "reference": reference, "store": store}
    options = {name: {**vars(request), **there}[name] for name in _OPTIONS}
    common = (
        *(f"--robustness-model={reference}" for reference in references),
        *(f"--robustness-{name}={value}" for name, value in options.items() if value is not None),
        *request.pytest_arguments,
    )
    named = references if reference is None else [*references, reference]
    needs = (*(name for name in named if Path(name).is_absolute()), *folders)
    tasks = tuple(
        Task(
            part=(part := Part(index=number, count=len(references))),
            name=name,
            arguments=(*common, f"--robustness-shard={part}", f"--robustness-json={REPORT}"),
            needs=needs,
            threads=threads,
        )
        for number, name in enumerate(_names(references), 1)
    )
    return Fleet(tasks=tasks, files=files)


def _require_passable(arguments: Sequence[str]) -> None:
    for argument in arguments:
        name = argument.partition("=")[0]
        if name in _OWN:
            why = "is set for every task by the fleet itself; leave it away behind '--'"
            raise FleetError(f"{name} {why}")
        if name in _REFUSED:
            raise FleetError(f"{name} is for a run of its own, not for a fleet")
        option = name.removeprefix("--robustness-")
        if name != option and option in _OPTIONS:
            raise FleetError(f"write --{option}=... before '--', not {name} behind it")


def _on_every_node(reference: str) -> str:
    """A path without the folder of this process; refused if it can be nothing on any node."""
    path = Path(os.path.expanduser(reference))  # noqa: PTH111 (leaves ~nobody as it is)
    there = bool(reference) and os.path.exists(path)  # noqa: PTH110 (names may be too long)
    if there or not reference.startswith(("pkg:", "/", "~")):  # of those only a node can tell
        CheckpointRef.parse(reference)
    return _absolute(path) if there else reference


def _absolute(path: Path) -> str:
    return os.path.abspath(path)  # noqa: PTH100 (links may lead elsewhere on another machine)


def _with_corpus(reference: str | None) -> tuple[dict[str, bytes], str | None, tuple[str, ...]]:
    """The files to send, how the corpus is called where they arrive, and what must be there."""
    existing = None if reference in (None, "builtin") else existing_path(str(reference))
    if existing is None:
        return {}, reference, ()
    path, rest = existing
    behind = f":{rest}" if rest else ""
    if path.is_dir():
        return {}, f"{_absolute(path)}{behind}", (_absolute(path),)
    name = f"corpus/{path.name}"
    try:
        return {name: path.read_bytes()}, f"{name}{behind}", ()
    except OSError as error:
        raise CorpusError(f"{path} cannot be read: {error.strerror or error}") from None


def _sent(files: dict[str, bytes], kind: str, file: Path | None) -> str | None:
    """Add a file to those that are sent; its path where it arrives."""
    if file is None:
        return None
    try:
        files[f"{kind}/{file.name}"] = file.read_bytes()
    except OSError as error:
        raise FleetError(f"--{kind}={file} cannot be read: {error.strerror or error}") from None
    return f"{kind}/{file.name}"


def _names(references: Sequence[str]) -> list[str]:
    """Labels as in the report; the references themselves where only a node can tell."""
    try:
        return unique_labels(references)
    except CheckpointError:
        return list(references)
