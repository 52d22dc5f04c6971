"""``robustness fleet``: vet checkpoints on the machines of a Ray cluster."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from robustness.cli.console import refusing, stop
from robustness.cli.reports import finish, require_packages, writing
from robustness.policy.policy import Policy, load_policy
from robustness.report.results import Report

if TYPE_CHECKING:
    from robustness.fleet.tasks import Request

BEHIND = "robustness.pytest_arguments"


class Passing(TyperCommand):
    """A command that hands on what stands behind ``--``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take it off before the rest is understood."""
        end = args.index("--") if "--" in args else len(args)
        ctx.meta[BEHIND] = tuple(args[end + 1 :])
        return super().parse_args(ctx, args[:end])


Checkpoints = Annotated[
    list[str],
    typer.Argument(
        metavar="CHECKPOINT...",
        help="Hub ids, or folders that every node reaches by the same path.",
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        help="Of the Ray cluster: auto, or host:port. Without it: RAY_ADDRESS, the cluster "
        "that this machine is part of, or a Ray of its own."
    ),
]
Cpus = Annotated[float, typer.Option(min=0.01, help="Reserved per checkpoint.")]
Gpus = Annotated[float, typer.Option(min=0, help="Reserved per checkpoint; with --device=cuda.")]
Retries = Annotated[
    int, typer.Option(min=0, help="How often a checkpoint whose worker died is tried again.")
]
Patience = Annotated[
    float, typer.Option(min=0, help="Seconds to wait for a node that could take a checkpoint.")
]
Corpus = Annotated[str | None, typer.Option(help="As --robustness-corpus; a file is sent along.")]
PolicyFile = Annotated[
    Path | None, typer.Option(help="As --robustness-policy, also found in this folder; sent along.")
]
Expectation = Annotated[str | None, typer.Option(help="As --robustness-expectation.")]
Reference = Annotated[
    str | None, typer.Option(help="As --robustness-reference; a file of profiles is sent along.")
]
Device = Annotated[str | None, typer.Option(help="As --robustness-device.")]
Store = Annotated[
    Path | None, typer.Option(help="As --robustness-store, on the nodes: best a shared disk.")
]


@writing
def fleet(
    context: typer.Context,
    checkpoints: Checkpoints,
    *,
    address: Address = None,
    cpus_per_task: Cpus = 1.0,
    gpus_per_task: Gpus = 0.0,
    retries: Retries = 2,
    patience: Patience = 600.0,
    corpus: Corpus = None,
    policy: PolicyFile = None,
    expectation: Expectation = None,
    reference: Reference = None,
    device: Device = None,
    store: Store = None,
    files: Mapping[str, Path],
) -> None:
    """Vet checkpoints on a Ray cluster, one task each, and make one verdict of it.

    What stands behind -- is passed to pytest on every node: -- --robustness-dtype=auto -n 2.

    Exit code 0: everything passed; 1: something failed or is missing; 2: it could not be run.
    """
    from robustness.fleet.tasks import Request

    with refusing():
        require_packages(files)
        rules = load_policy(policy, folders=(Path.cwd(),))
        request = Request(
            checkpoints=tuple(checkpoints),
            corpus=corpus,
            policy=None if rules.source is None else Path(rules.source),
            reference=reference,
            expectation=expectation,
            device=device,
            store=store,
            pytest_arguments=context.meta[BEHIND],
        )
        nodes: dict[str, Any] = {"address": address, "gpus": gpus_per_task, "patience_s": patience}
        report = _vetted(request, rules, retries, cpus=cpus_per_task, **nodes)
    finish(report, files)


def _vetted(
    request: "Request", rules: Policy, retries: int, *, cpus: float, **nodes: Any
) -> Report:
    from robustness.fleet.progress import Board
    from robustness.fleet.ray_cluster import RayCluster
    from robustness.fleet.run import run, verdict
    from robustness.fleet.tasks import fleet_of

    try:
        whole = fleet_of(request, threads=max(1, int(cpus)))
        board = Board(whole.tasks, retries=retries)
        cluster = RayCluster(cpus=cpus, **nodes, files=whole.files, tell=board.note)
        with cluster as executor, board.shown():
            outcome = run(whole.tasks, executor, retries=retries, tell=board.tell)
    except KeyboardInterrupt:
        stop("interrupted; there is no verdict")
    return verdict(
        whole,
        outcome,
        confidence=rules.confidence,
        policy=rules.source,
        reference=request.reference,
    )
