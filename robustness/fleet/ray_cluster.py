"""Tasks on a Ray cluster, or on a Ray of their own on this machine."""

import contextlib
import io
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from robustness.errors import FleetError
from robustness.fleet.node import vet
from robustness.fleet.run import Event, Node, Result, result_of
from robustness.fleet.tasks import Task

INSTALL = "pip install 'pytest-robustness[fleet]'"
NOT_INSTALLED = (
    "the node cannot import robustness; install the same version of pytest-robustness[fleet] on "
    "every node"
)
LOOK_EVERY = 5.0
"""Seconds between two looks at whether any node could take what waits."""
REACHED_WITHIN = 10.0
"""Seconds; Ray itself would try for minutes, and then end the process."""


def on_node(task: Mapping[str, Any], files: Mapping[str, bytes]) -> Iterator[dict[str, Any]]:
    """A task as Ray runs it: at once where it runs, in the end what came of it."""
    import platform

    import ray

    yield {"id": ray.get_runtime_context().get_node_id(), "name": platform.node()}
    yield vet(task, files)


@dataclass(eq=False, kw_only=True)
class RayCluster:
    """Runs tasks on Ray; a context manager that leaves nothing running.

    Raises:
        FleetError: if Ray is not installed, or cannot be asked for that.
    """

    # of the cluster, as ``ray.init`` takes it: ``auto``, ``host:port``; ``None``: what
    # ``RAY_ADDRESS`` names, or the cluster that this machine is part of, or a Ray of its own that
    # ends with the run
    address: str | None
    cpus: float  # that a task reserves; below 1 a fraction
    gpus: float
    files: Mapping[str, bytes]  # sent along with every task
    patience_s: float  # seconds without any node that could take a task, after which it is given up
    tell: Callable[[str], None]  # called with a line while there is none

    def __post_init__(self) -> None:
        try:
            import ray
        except ImportError:
            raise FleetError(f"a fleet needs Ray: {INSTALL}") from None
        if self.address is not None and self.address.startswith("ray://"):
            raise FleetError(
                f"--address={self.address} is that of a Ray client; run this on a node of the "
                "cluster with --address=auto, or by 'ray job submit'"
            )
        for option, n in (("--cpus-per-task", self.cpus), ("--gpus-per-task", self.gpus)):
            if n > 1 and not n.is_integer():
                raise FleetError(f"{option}={n:g} cannot be: above 1, Ray counts whole ones only")
        self._ray: Any = ray
        self._wanted = {"CPU": self.cpus, "GPU": self.gpus}
        self._running: dict[Any, Task] = {}
        self._room_seen = time.monotonic()

    def __enter__(self) -> "RayCluster":
        """Connect; a FleetError if there is no such cluster, or a Ray of its own has too little."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray reports to its makers otherwise
        _require_reachable(self.address)
        quiet = {"log_to_driver": False, "logging_level": logging.CRITICAL}
        with contextlib.ExitStack() as opened:
            # Ray's own notices, such as the last lines of a dead node's log, go to standard output.
            opened.enter_context(contextlib.redirect_stdout(io.StringIO()))
            opened.callback(self._ray.shutdown)
            opened.callback(self._cancel_all)
            try:
                self._ray.init(address=self.address, **quiet)
                self._shared = self._ray.put(dict(self.files))
                self._remote = self._ray.remote(on_node)
                self._look_for_room()
            except (ConnectionError, ValueError, RuntimeError, OSError) as error:
                raise FleetError(f"there is no Ray to be had: {_first_line(error)}") from None
            self._opened = opened.pop_all()
        return self

    def _look_for_room(self) -> None:
        """Find out at once that what is asked for will never be there."""
        self._room_seen = time.monotonic()
        nodes = self._nodes()
        if self._has_room(nodes):
            return
        if self.address in (None, "local") and len(nodes) == 1:
            raise FleetError(
                f"this Ray has no node with {self._described()} for a task; ask for less by "
                "--cpus-per-task and --gpus-per-task, or name a cluster by --address"
            )
        self.tell(f"no node has {self._described()} yet; waiting {self.patience_s:g} s for one")

    def __exit__(self, *_: object) -> None:
        """Cancel what still runs, and disconnect."""
        self._opened.close()

    def _cancel_all(self) -> None:
        for generator in self._running:
            with contextlib.suppress(Exception):  # it may have ended, and so may the cluster
                self._ray.cancel(generator, force=True)
        self._running.clear()

    def submit(self, task: Task, *, avoid: Node | None) -> None:
        """Queue a task; Ray starts it where there is room."""
        elsewhere: dict[str, Any] = {}
        if avoid is not None:  # but the same one is better than none
            elsewhere["label_selector"] = {"ray.io/node-id": f"!{avoid.id}"}
            elsewhere["fallback_strategy"] = [{"label_selector": {}}]
        generator = self._remote.options(
            name=f"robustness {task.part}",
            num_cpus=self._wanted["CPU"],
            num_gpus=self._wanted["GPU"],
            max_retries=0,  # how often is decided by who reads the answers
            num_returns="streaming",
            **elsewhere,
        ).remote(asdict(task), self._shared)  # plain: a node may have another version of this
        self._running[generator] = task

    def wait(self) -> Sequence[Event]:
        """What the tasks have answered since, once one has; or that none will.

        Raises:
            FleetError: if the cluster itself is gone.
        """
        try:
            while True:
                ready, _ = self._ray.wait(list(self._running), num_returns=1, timeout=LOOK_EVERY)
                if ready:
                    return [self._answer(generator) for generator in ready]
                if self._is_hopeless():
                    break
        except self._ray.exceptions.RayError as error:
            raise FleetError(f"the Ray cluster is gone: {_first_line(error)}") from None
        why = f"no node with {self._described()} came up within {self.patience_s:g} s"
        result = Result(kind="broken", text=why)
        given_up = [Event(task=task, result=result) for task in self._running.values()]
        self._cancel_all()
        return given_up

    def _answer(self, generator: Any) -> Event:
        task = self._running[generator]
        try:
            answer = self._ray.get(next(generator))
        except StopIteration:
            result = Result(kind="lost", text="it ended without an answer")
        except Exception as error:
            result = _failure(error)
        else:
            self._room_seen = time.monotonic()
            if "exit_status" not in answer:
                return Event(task=task, node=Node(**answer))
            result = result_of(answer)
        self._running.pop(generator)  # a generator is let go of with its result
        return Event(task=task, result=result)

    def _is_hopeless(self) -> bool:
        """Whether there has been no node for the tasks for too long."""
        now = time.monotonic()
        if self._has_room(self._nodes()):
            self._room_seen = now
        return now - self._room_seen > self.patience_s

    def _nodes(self) -> list[Mapping[str, Any]]:
        return [node["Resources"] for node in self._ray.nodes() if node["Alive"]]

    def _has_room(self, nodes: Sequence[Mapping[str, Any]]) -> bool:
        return any(
            all(node.get(kind, 0) >= n for kind, n in self._wanted.items()) for node in nodes
        )

    def _described(self) -> str:
        return " and ".join(
            f"{n:g} {kind}{'s' * (n != 1)}" for kind, n in self._wanted.items() if n
        )


def _failure(error: Exception) -> Result:
    """What a task's error means: that its worker or its node is no more, unless it says why."""
    if "failed to import on the worker" in str(error):
        return Result(kind="refused", text=NOT_INSTALLED)
    cause = getattr(error, "cause", None)
    if isinstance(cause, Exception):  # raised by the task itself: a full disk, for example
        return Result(kind="lost", text=f"{type(cause).__name__}: {_first_line(cause)}")
    return Result(kind="lost", text=_first_line(error).partition(" Check ")[0])  # Ray's log files


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300]


def _require_reachable(address: str | None) -> None:
    """Knock at ``host:port``, and refuse an address where nobody answers."""
    host, colon, port = (address or "").rpartition(":")
    if not colon or not port.isdigit():
        return
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=REACHED_WITHIN):
            return
    except (OSError, OverflowError) as error:
        raise FleetError(f"no Ray cluster answers at --address={address}: {error}") from None
