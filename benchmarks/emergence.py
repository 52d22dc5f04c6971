"""Do outlier dimensions emerge in a small BERT that is pre-trained from scratch? When, and where?

    python benchmarks/emergence.py [--shared ../shared] [--work DIR] [--seeds 0 1 2] [--write]
                                   [--layers 4] [--hidden-size 64] [--steps 2500] …

Trains a BERT on antibody sequences (one token per character, 15 % masked) for each seed, with and
without weight decay on LayerNorm's scales and biases, and keeps a checkpoint every few steps. Each
checkpoint is scanned by its weights, and measured on sequences that were held out: perplexity, and
what ablating the dimensions does that are outliers in the end. Of the last checkpoint the verdicts
of the packaged suite are asked for, random control included. Where the rule finds nothing, the same
is asked of the dimension that came nearest, so that a null result says something.

Everything is kept under ``--work``: what is there is not computed again, and a killed training goes
on from its last checkpoint. About 20 minutes of one core as it stands; larger with a GPU.
The plot (``emergence.svg``, with ``--write``) needs matplotlib, the extra ``benchmarks``.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from robustness.ablation.interventions import FixedAblation, Intact
from robustness.checkpoint.resolving import resolve
from robustness.outliers.rules.settings import Rules
from robustness.outliers.scanning import Scan, scan
from robustness.policy.settings import Settings
from robustness.statistics.verdict import Verdict
from robustness.store.context import Context
from robustness.vetting import Vetting

sys.path.insert(0, str(Path(__file__).parent))
from emergence_training import Arm, Recipe, checkpoints, split, train
from results import RESULTS, conditions, header, keep, row, section, versions_of

RELAXED = Rules.model_validate({"busters": {"k": 2.0}})
"""What the paper's authors relax their rule to for RoBERTa."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One checkpoint.

    Attributes:
        step: of training.
        outliers: by the rule as it stands.
        relaxed: by the rule at 2 standard deviations.
        z_scale: of the followed dimension, median over the layers.
        z_bias: likewise.
        largest_z: |z| of the scale or bias that stands out most in any layer.
        perplexity: of the held-out text.
        degradation: by ablating the followed dimensions.
    """

    step: int
    outliers: tuple[int, ...]
    relaxed: tuple[int, ...]
    z_scale: float
    z_bias: float
    largest_z: float
    perplexity: float
    degradation: float


@dataclass(frozen=True, kw_only=True)
class Course:
    """One training, traced.

    Attributes:
        arm: which.
        dims: the dimensions followed: the last checkpoint's outliers, or else the nearest to one.
        found: whether they are outliers.
        layers: of each of them, in which it stands out at the end.
        points: its checkpoints, in order.
        parameters: of the model.
        loss: the last that was logged.
        joint: verdict on ablating them from the last checkpoint.
        control: verdict on as many random ones.
        factor: whether they matter more than chance.
    """

    arm: Arm
    dims: tuple[int, ...]
    found: bool
    layers: dict[int, tuple[int, ...]]
    points: tuple[Point, ...]
    parameters: int
    loss: float
    joint: Verdict
    control: Verdict
    factor: Verdict

    def emerged(self, *, relaxed: bool) -> str:
        """Each last outlier dimension with the first step after which it stays flagged."""

        def flagged(point: Point) -> tuple[int, ...]:
            return point.relaxed if relaxed else point.outliers

        first = {
            dim: min(
                point.step
                for n, point in enumerate(self.points)
                if all(dim in flagged(later) for later in self.points[n:])
            )
            for dim in flagged(self.points[-1])
        }
        return ", ".join(f"{dim} from {step} on" for dim, step in first.items()) or "none"


def trace(arm: Arm, log: dict[str, Any], folder: Path, held_out: Path, store: Path) -> Course:
    """Scan and measure all checkpoints of a training."""
    folders = checkpoints(folder)
    scans = [
        (
            scan(str(path), label=path.name, context=Context(root=store)),
            scan(str(path), label=path.name, context=Context(root=store), rules=RELAXED),
        )
        for _, path in folders
    ]
    last, _ = scans[-1]
    found = _busters(last)
    dims = found or (nearest(last),)
    points = []
    for (step, path), (plain, relaxed) in zip(folders, scans, strict=True):
        vetting = _vetting(path, held_out, store)
        perplexity, degradation = _measured(vetting, dims)
        scale, bias = plain.z_scale, plain.z_bias
        assert bias is not None
        points.append(
            Point(
                step=step,
                outliers=_busters(plain),
                relaxed=_busters(relaxed),
                z_scale=float(np.median(scale[:, dims[0]])),
                z_bias=float(np.median(bias[:, dims[0]])),
                largest_z=float(max(np.abs(scale).max(), np.abs(bias).max())),
                perplexity=perplexity,
                degradation=degradation,
            )
        )
    vetting = _vetting(folders[-1][1], held_out, store)
    ablated = vetting.ablate(dims)
    detection = last.findings[0].detection
    assert detection is not None
    return Course(
        arm=arm,
        dims=dims,
        found=bool(found),
        layers={outlier.dim: outlier.layers for outlier in detection.outliers},
        points=tuple(points),
        parameters=log["parameters"],
        loss=[entry["loss"] for entry in log["history"] if "loss" in entry][-1],
        joint=ablated.degrades(by=1.05),
        control=vetting.ablate_random(len(dims)).is_harmless(within=1.1),
        factor=ablated.matters_more_than_chance(factor=5.0),
    )


def _busters(found: Scan) -> tuple[int, ...]:
    (finding,) = (each for each in found.findings if each.rule == "busters")
    return finding.dims


def nearest(found: Scan) -> int:
    """The dimension whose scale and bias both stand out most in half of the layers."""
    both = np.abs(found.z_scale)
    if found.z_bias is not None:
        both = np.minimum(both, np.abs(found.z_bias))  # (L, D)
    half = math.ceil(found.layers / 2)
    return int(np.sort(both, axis=0)[-half].argmax())


def _vetting(path: Path, held_out: Path, store: Path) -> Vetting:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    settings = Settings(corpus=str(held_out), device=device)
    return Vetting(
        checkpoint=resolve(str(path), cache=store),
        settings=settings,
        context=Context(root=store, threads=None),
    )


def _measured(vetting: Vetting, dims: Sequence[int]) -> tuple[float, float]:
    """Perplexity and degradation over the whole held-out text."""
    measurement = vetting.measurement
    ablation = vetting.ablate(dims).ablation
    nll, delta, tokens = 0.0, 0.0, 0
    for index in range(measurement.n_chunks):
        intact, ablated = measurement.chunk(index, Intact(), FixedAblation(ablation=ablation))
        nll += float(intact.nll_nats.sum())
        delta += float((ablated.nll_nats - intact.nll_nats).sum())
        tokens += int(intact.tokens.sum())
    return math.exp(nll / tokens), math.exp(delta / tokens)


def report(courses: Sequence[Course], recipe: Recipe, versions: str) -> str:
    """All tables."""
    some = courses[0]
    setting = ", ".join(f"{name} {value}" for name, value in asdict(recipe).items())
    lines = [
        f"{len(courses)} trainings of a BERT of {some.parameters:,} parameters on antibody "
        f"sequences ({setting.replace('_', ' ')}; AdamW, linear warm-up and decay; dropout 0.1).",
        "",
        *header(
            *("seed", "norm decay", "loss", "perplexity", "outliers, k = 3", "outliers, k = 2"),
            "largest \\|z\\| at the end",
        ),
        *map(_row, courses),
        "",
        "What ablating them does to the last checkpoint (held-out text; suite's verdicts, each at "
        "confidence 0.99):",
        "",
        *header(
            *("seed", "norm decay", "dimensions", "median z of scale, bias", "ratio"),
            *("at least 1.05", "as many random: median, mean", "below 1.1", "5 times chance"),
        ),
        *map(_harm, courses),
        "",
        "Over the steps, mean of the seeds (lowest to highest):",
        "",
        *header(
            *("norm decay", "step", "perplexity", "outliers, k = 3", "outliers, k = 2"),
            *("largest \\|z\\|", "degradation by the followed dimensions"),
        ),
    ]
    for norm_decay in (False, True):
        own = [course for course in courses if course.arm.norm_decay == norm_decay]
        lines += _over_steps(own, "yes" if norm_decay else "no")
    return section(versions, *lines, "", "![over the steps](emergence.svg)")


def _row(course: Course) -> str:
    last = course.points[-1]
    where = "; ".join(
        f"{dim} in layers {', '.join(map(str, layers))}" for dim, layers in course.layers.items()
    )
    cells = [
        *_name(course),
        f"{course.loss:.3f}",
        f"{last.perplexity:.3f}",
        course.emerged(relaxed=False) + (f" ({where})" if where else ""),
        course.emerged(relaxed=True),
        f"{last.largest_z:.2f}",
    ]
    return row(*cells)


def _harm(course: Course) -> str:
    last = course.points[-1]
    assert course.control.measured is not None
    assert course.control.details.draws is not None
    cells = [
        *_name(course),
        ", ".join(map(str, course.dims)) + ("" if course.found else " (nearest)"),
        f"{last.z_scale:+.2f}, {last.z_bias:+.2f}",
        f"{last.degradation:.4g}",
        course.joint.outcome,
        f"{course.control.measured:.4g}, {course.control.details.draws.mean:.4g}",
        course.control.outcome,
        course.factor.outcome,
    ]
    return row(*cells)


def _name(course: Course) -> tuple[str, str]:
    return str(course.arm.seed), "yes" if course.arm.norm_decay else "no"


def _over_steps(courses: Sequence[Course], name: str) -> list[str]:
    def spread(values: Sequence[float]) -> str:
        return f"{np.mean(values):.3g} ({min(values):.3g} to {max(values):.3g})"

    rows = []
    for points in zip(*(course.points for course in courses), strict=True):
        cells = [
            name,
            str(points[0].step),
            spread([point.perplexity for point in points]),
            spread([len(point.outliers) for point in points]),
            spread([len(point.relaxed) for point in points]),
            spread([point.largest_z for point in points]),
            spread([point.degradation for point in points]),
        ]
        rows.append(row(*cells))
    return rows


def main() -> None:
    """Train, trace and print, or append to RESULTS.md and draw the plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--work", type=Path, default=Path("emergence-work"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--write", action="store_true", help="append to RESULTS.md, draw the plot")
    for field in fields(Recipe):
        option = f"--{field.name.replace('_', '-')}"
        parser.add_argument(option, type=type(field.default), default=field.default)
    arguments = parser.parse_args()
    recipe = Recipe(**{field.name: getattr(arguments, field.name) for field in fields(Recipe)})
    root = arguments.work / recipe.name
    sequences, held_out = split(arguments.shared, root)
    courses = []
    for norm_decay in (False, True):
        for seed in arguments.seeds:
            arm = Arm(seed=seed, norm_decay=norm_decay)
            log = train(arm, recipe, sequences, root / arm.name)
            course = trace(arm, log, root / arm.name, held_out, root / "store")
            courses.append(course)
            print(_row(course), _harm(course), sep="\n", flush=True)
    names = ("torch", "transformers", "tokenizers", "accelerate", "numpy")
    text = report(courses, recipe, conditions(versions_of(names)))
    keep(text, write=arguments.write)
    if arguments.write:
        from emergence_plot import draw

        draw(courses, RESULTS.with_name("emergence.svg"))


if __name__ == "__main__":
    main()
