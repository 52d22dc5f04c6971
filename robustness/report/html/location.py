"""Figures of where a candidate differs from its reference, layer by layer."""

from robustness.report.html.parts import Figure, axis, layout, lined, scatter
from robustness.report.words import number
from robustness.statistics.location import ENTERING, LayerChange, StateChanges, percent

TICKS = 12
"""Labels of layers, about."""


def place(change: LayerChange) -> str:
    """Return what a row is called."""
    return "embedding" if change.layer == ENTERING else f"layer {change.layer}"


def moved(states: StateChanges) -> Figure:
    """Draw how far each place has moved, as bars, and the layers' own changes as points."""
    layers = states.layers
    own = [each for each in layers if each.own is not None]
    bars = {
        **scatter(
            "moved",
            [each.layer for each in layers],
            [100 * each.moved for each in layers],
            [
                f"{place(each)}: moved {percent(each.moved)}, cosine {number(each.cosine)}"
                for each in layers
            ],
        ),
        "type": "bar",
        "textposition": "none",  # it is for whoever points at a bar
        "marker": {"color": "@accent", "opacity": 0.55},
    }
    points = scatter(
        "own change",
        [each.layer for each in own],
        [100 * (each.own or 0.0) for each in own],
        [f"{place(each)}: own change {percent(each.own or 0.0)}" for each in own],
        marker=lined("@ink", 1.5, size=9, symbol="diamond-open"),
        cliponaxis=False,
    )
    return {
        "data": [bars, points],
        "layout": layout(
            height=280,
            showlegend=True,
            legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0},
            xaxis=_layers(states),
            yaxis=axis("%", rangemode="tozero"),
        ),
    }


def restored(states: StateChanges) -> Figure | None:
    """Draw what the reference's state at each place restores; ``None`` if there is no harm."""
    shares = [(each, states.restored(each)) for each in states.layers]
    known = [(each, share) for each, share in shares if share is not None]
    if not known:
        return None
    line = scatter(
        "restored",
        [each.layer for each, _ in known],
        [100 * share for _, share in known],
        [f"{place(each)}: {100 * share:.0f} % restored" for each, share in known],
        mode="lines+markers",
        line={"color": "@accent", "width": 2},
        marker={"size": 8, "color": "@accent"},
        cliponaxis=False,
    )
    return {
        "data": [line],
        "layout": layout(height=240, xaxis=_layers(states), yaxis=axis("%", rangemode="tozero")),
    }


def _layers(states: StateChanges) -> Figure:
    numbers = [each.layer for each in states.layers]
    shown = numbers[:1] + numbers[1 :: max(1, len(numbers) // TICKS)]
    return axis(
        "layer",
        tickvals=shown,
        ticktext=["embedding" if n == ENTERING else str(n) for n in shown],
        range=[numbers[0] - 0.6, numbers[-1] + 0.6],
        fixedrange=True,
    )
