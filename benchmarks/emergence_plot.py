"""The plot of `emergence.py`: one column with and one without weight decay on LayerNorm."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from emergence import Course, Point


def draw(courses: "Sequence[Course]", file: Path) -> None:
    """Perplexity, how far the weights stand out, and what ablation does, over the steps."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "emergence", "font.size": 9})
    from matplotlib import pyplot

    rows: list[tuple[str, Callable[[Point], float], float | None]] = [
        ("perplexity", lambda point: point.perplexity, None),
        ("largest |z|, any layer", lambda point: point.largest_z, 3.0),
        ("|z| of scale, followed", lambda point: abs(point.z_scale), 3.0),
        ("|z| of bias, followed", lambda point: abs(point.z_bias), 3.0),
        ("degradation, followed", lambda point: point.degradation, 1.0),
    ]
    figure, axes = pyplot.subplots(
        len(rows), 2, figsize=(8, 10), sharex=True, sharey="row", layout="constrained"
    )
    for column, norm_decay in enumerate((False, True)):
        own = [course for course in courses if course.arm.norm_decay == norm_decay]
        axes[0][column].set_title(f"LayerNorm {'decayed' if norm_decay else 'not decayed'}")
        axes[0][column].set_yscale("log")
        for row, (name, value, line) in enumerate(rows):
            axis = axes[row][column]
            for course in own:
                dims = ", ".join(map(str, course.dims))
                what = "" if course.found else "nearest: "
                axis.plot(
                    [point.step for point in course.points],
                    [value(point) for point in course.points],
                    marker=".",
                    label=f"seed {course.arm.seed}, {what}{dims}",
                )
            if line is not None:
                axis.axhline(line, color="grey", linewidth=0.8, linestyle="--")
            if column == 0:
                axis.set_ylabel(name)
        axes[0][column].legend(frameon=False, fontsize=8)
        axes[-1][column].set_xlabel("step")
    figure.savefig(file, metadata={"Date": None})
    pyplot.close(figure)
