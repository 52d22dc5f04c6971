"""Scores of a checkpoint on a development set: intact, and without some of its dimensions."""

import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, get_args

import numpy as np

from robustness.ablation.interventions import FixedAblation, Intact, Intervention
from robustness.checkpoint.checkpoint import Checkpoint
from robustness.checkpoint.resolving import resolve
from robustness.checkpoint.task_heads import KindChoice
from robustness.checks.tasks.task import Task
from robustness.errors import NoLanguageModel, RobustnessError
from robustness.outliers.rules.settings import Rule
from robustness.policy.policy import load_policy
from robustness.runtime.plain import plain
from robustness.scoring.sampling import random_dims
from robustness.store.context import Context
from robustness.tasks.decisions import Paired, bootstrap_interval
from robustness.tasks.metrics import Floats, score
from robustness.vetting import Vetting

_CHUNK = 256
"""Examples that are predicted together: all are scored anyway, and large batches are faster."""


class Asked(NamedTuple):
    """A task, as a checkpoint is asked.

    Attributes:
        reference: of its development set.
        metric: of the scores.
        kind: ``auto``: what the checkpoint's head answers; ``similarity``: the cosine of its
            mean-pooled embeddings.
    """

    reference: str
    metric: str
    kind: KindChoice = "auto"


def vetted(
    reference: str, args: Namespace, asked: Asked | None = None, rules: Sequence[Rule] = ()
) -> Vetting:
    """The object that finds outlier dimensions, by other rules where named, and predicts."""
    busters = {"k": args.k, "min_layer_share": args.min_layer_share}
    task: dict[str, Any] = {}
    if asked is not None:
        task = {
            "data": asked.reference,
            "metric": asked.metric,
            "kind": asked.kind,
            "max_length": args.max_length,
        }
    options = {
        "rule": list(rules) or args.rule,
        "rules": {"busters": busters},
        "task": task,
        "device": args.device,
    }
    settings = load_policy(None, options=options).settings(reference)
    store = args.out / "store"
    checkpoint = _resolved(reference, args, settings.task.kind)
    return Vetting(checkpoint=checkpoint, settings=settings, context=Context(root=store))


def _resolved(reference: str, args: Namespace, kind: KindChoice) -> Checkpoint:
    """A checkpoint with or without a language-model head."""
    store = args.out / "store"
    try:
        return resolve(reference, cache=store)
    except NoLanguageModel:
        return resolve(reference, cache=store, task=kind)


def scores(found: Vetting, dims: Sequence[int], args: Namespace, what: str) -> dict[str, Any]:
    """A model's scores intact, without dimensions, and without as many random ones.

    Args:
        found: the model, with its task.
        dims: outlier dimensions.
        args: of the command line.
        what: for the progress.
    """
    task, size = found.task.task, found.model_profile.hidden_size
    others = [dim for dim in range(size) if dim not in dims]
    draws = []
    if dims:
        seed = args.seeds[0]
        draws = [random_dims(others, len(dims), seed=seed, draw=n) for n in range(args.draws)]
    off: dict[str, Sequence[int]] = {f"without {dim}": [dim] for dim in dims}
    off |= {"without all": dims} if dims else {}
    off |= {f"without random {n}": draw for n, draw in enumerate(draws, start=1)}
    conditions: dict[str, Intervention] = {"intact": Intact()}
    for name, some in off.items():
        conditions[name] = FixedAblation(ablation=found.ablation(tuple(some)))
    answers = dict(zip(conditions, _answers(task, found, conditions, what), strict=True))
    metric, labels = task.planned.metric, task.labels
    by_name = {name: score(metric, labels, given) for name, given in answers.items()}
    told = (f"{name} {value:.4f}" for name, value in by_name.items())
    say(f"{what}: {metric}: {', '.join(told)}")
    guess, interval = 0.0, None
    if metric == "accuracy":
        ((_, most),) = Counter(labels.tolist()).most_common(1)
        guess = most / len(labels)
    if dims:
        paired = Paired(labels=labels, first=answers["intact"], second=answers["without all"])
        interval = bootstrap_interval(paired, metric, alpha=0.025, seed=args.seeds[0])
    return {
        "dims": list(dims),
        "guess": guess,
        "intact": by_name["intact"],
        "alone": {str(dim): by_name[f"without {dim}"] for dim in dims},
        "joint": by_name.get("without all"),
        "joint_drop_95": interval,
        "random": [by_name[f"without random {n}"] for n in range(1, len(draws) + 1)],
    }


def _answers(
    task: Task, found: Vetting, conditions: dict[str, Intervention], what: str
) -> Iterator[Floats]:
    """Answers to the whole development set under each condition, in the order of measurement."""
    measurement = task.planned.measurement(
        found.context,
        max_length=found.settings.task.max_length,
        seed=found.settings.seed,
        device=found.settings.device,
        chunk_examples=_CHUNK,
    )
    by_chunk = []
    for index in range(measurement.n_chunks):
        by_chunk.append(measurement.chunk(index, *conditions.values()))
        done = f"{index + 1}/{measurement.n_chunks} chunks"
        say(f"{what}: {done} of {measurement.n_examples} examples, {len(conditions)} times")
    for each in zip(*by_chunk, strict=True):
        yield np.concatenate([task.answers(outputs) for outputs in each])


def flagged(reference: str, args: Namespace) -> dict[str, list[int] | str]:
    """What every rule says of a checkpoint: its outlier dimensions, or why it cannot tell."""
    rules: tuple[Rule, ...] = get_args(Rule)
    common = tuple(rule for rule in rules if rule != "super-weight")  # they read the text once
    found: dict[str, list[int] | str] = {}
    for group in (common, *((rule,) for rule in rules)):
        if found.keys() >= set(group):
            continue
        try:
            model_profile = vetted(reference, args, rules=group).model_profile
        except RobustnessError as error:
            if len(group) == 1:
                found[group[0]] = str(error)
        else:
            dims = (list(detection.dims) for detection in model_profile.detections)
            found |= zip(group, dims, strict=True)
    return found


def say(text: str) -> None:
    """Progress, for people."""
    sys.stderr.write(f"{plain(text, limit=None)}\n")
    sys.stderr.flush()
