"""``robustness fleet``: vet checkpoints on the machines of a Ray cluster."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from robustness.cli.formats import NO_VERDICT, require_packages, writing
from robustness.cli.merge import finish

BEHIND = "robustness.pytest_arguments"


class Passing(TyperCommand):
    """A command that hands on what stands behind ``--``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take it off before the rest is understood."""
        end = args.index("--") if "--" in args else len(args)
        ctx.meta[BEHIND] = tuple(args[end + 1 :])
        return super().parse_args(ctx, args[:end])


@writing
def fleet(
    context: typer.Context,
    checkpoints: Annotated[
        list[str],
        typer.Argument(
            metavar="CHECKPOINT...",
            help="Hub ids, or folders that every node reaches by the same path.",
        ),
    ],
    *,
    address: Annotated[
        str | None,
        typer.Option(
            help="Of the Ray cluster: auto, or host:port. Without it: RAY_ADDRESS, the cluster "
            "that this machine is part of, or a Ray of its own."
        ),
    ] = None,
    cpus_per_task: Annotated[float, typer.Option(min=0.01, help="Reserved per checkpoint.")] = 1.0,
    gpus_per_task: Annotated[
        float, typer.Option(min=0, help="Reserved per checkpoint; with --device=cuda.")
    ] = 0.0,
    retries: Annotated[
        int, typer.Option(min=0, help="How often a checkpoint whose worker died is tried again.")
    ] = 2,
    patience: Annotated[
        float, typer.Option(min=0, help="Seconds to wait for a node that could take a checkpoint.")
    ] = 600.0,
    corpus: Annotated[
        str | None, typer.Option(help="As --robustness-corpus; a file is sent along.")
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option(help="As --robustness-policy, also found in this folder; sent along."),
    ] = None,
    expectation: Annotated[str | None, typer.Option(help="As --robustness-expectation.")] = None,
    baseline: Annotated[
        Path | None, typer.Option(help="As --robustness-baseline; sent along.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="As --robustness-device.")] = None,
    store: Annotated[
        Path | None, typer.Option(help="As --robustness-store, on the nodes: best a shared disk.")
    ] = None,
    files: Mapping[str, Path],
) -> None:
    """Vet checkpoints on a Ray cluster, one task each, and make one verdict of it.

    What stands behind -- is passed to pytest on every node: -- --robustness-dtype=auto -n 2.

    Exit code 0: everything passed; 1: something failed or is missing; 2: it could not be run.
    """
    from robustness.errors import RobustnessError
    from robustness.fleet.progress import Board
    from robustness.fleet.ray_cluster import RayCluster
    from robustness.fleet.run import run
    from robustness.fleet.tasks import Request, fleet_of
    from robustness.fleet.verdict import verdict
    from robustness.policy.policy import load_policy

    try:
        require_packages(files)
        rules = load_policy(policy, folders=(Path.cwd(),))
        whole = fleet_of(
            Request(
                checkpoints=tuple(checkpoints),
                corpus=corpus,
                policy=None if rules.source is None else Path(rules.source),
                baseline=baseline,
                expectation=expectation,
                device=device,
                store=store,
                pytest_arguments=context.meta[BEHIND],
            ),
            threads=max(1, int(cpus_per_task)),
        )
        board = Board(whole.tasks, retries=retries)
        with (
            RayCluster(
                address=address,
                cpus=cpus_per_task,
                gpus=gpus_per_task,
                files=whole.files,
                patience_s=patience,
                tell=board.note,
            ) as cluster,
            board.shown(),
        ):
            outcome = run(whole.tasks, cluster, retries=retries, tell=board.tell)
        report = verdict(
            whole, outcome, confidence=rules.confidence, policy=rules.source, baseline=baseline
        )
    except RobustnessError as error:
        typer.echo(f"robustness: {error}", err=True)
        raise typer.Exit(NO_VERDICT) from None
    except KeyboardInterrupt:
        typer.echo("robustness: interrupted; there is no verdict", err=True)
        raise typer.Exit(NO_VERDICT) from None
    finish(report, files)
