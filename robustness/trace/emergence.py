"""When outlier dimensions emerged: the checkpoints of one run, in the order of its steps."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robustness.errors import CheckpointError
from robustness.outliers.scanning import Scan

if TYPE_CHECKING:
    from robustness.trace.step_measure import Measured

SCHEMA = 1
"""Of what a trace is in JSON; part of the public interface."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One checkpoint of a run."""

    reference: str  # as it is scanned
    step: int | None  # the number in its name; ``None`` where it has none
    scan: Scan  # what the rules on weights say of it
    measured: "Measured | None" = None  # on text; ``None`` where it was not
    unmeasurable: str = ""  # why it could not be, although it should

    def dims(self, rule: str) -> tuple[int, ...]:
        """The outlier dimensions by a rule, ascending."""
        return next(finding.dims for finding in self.scan.findings if finding.rule == rule)


@dataclass(frozen=True, kw_only=True)
class Track:
    """The scale or the bias of a dimension over the steps."""

    layer: int  # the one that is followed, where the dimension stood furthest out in the end
    value: tuple[float, ...]  # there, for each step
    # its distance from the layer's mean in unbiased standard deviations, for each step
    z: tuple[float, ...]
    layer_mean: tuple[float, ...]  # over all dimensions of that layer
    layer_std: tuple[float, ...]  # over the same, unbiased
    z_lowest: tuple[float, ...]  # over all layers
    z_highest: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class History:
    """One dimension over a run."""

    dim: int  # its index, the same in every step
    flagged: tuple[bool, ...]  # for each step, whether the rule finds it
    # index of the first step from which on it is found in every one; ``None`` where it is not found
    # in the last
    emerged: int | None
    z_scale: tuple[float, ...]  # for each step, the scale's z furthest from 0 in any layer
    z_bias: tuple[float, ...] | None  # the bias'; ``None`` where the sites have none
    scale: Track  # the scale in one layer over the steps
    bias: Track | None  # the bias; ``None`` where the sites have none

    def track(self, of: str) -> Track:
        """Return the track of its ``scale``, or of the ``bias`` that it has."""
        track = self.scale if of == "scale" else self.bias
        assert track is not None
        return track


def require_one_run(steps: Sequence[Step]) -> None:
    """Refuse checkpoints that cannot be of one run: their dimensions are not the same ones."""
    first = steps[0].scan
    for other in (step.scan for step in steps[1:]):
        for what, here, there in (
            ("architecture", first.architecture, other.architecture),
            ("number of layers", first.layers, other.layers),
            ("hidden size", first.hidden_size, other.hidden_size),
            ("sites", first.shape, other.shape),
        ):
            if here != there:
                raise CheckpointError(
                    f"{first.label} and {other.label} are not of one run: their {what} differs "
                    f"({here}, {there}), so no dimension of one is a dimension of the other"
                )


def histories(steps: Sequence[Step], rule: str, *, also: Sequence[int] = ()) -> tuple[History, ...]:
    """Return every dimension that a rule finds in some step, the earliest to emerge first.

    ``also`` are dimensions that are followed whether or not it finds them.
    """
    require_one_run(steps)
    flagged = [set(step.dims(rule)) for step in steps]
    dims = sorted(set(also).union(*flagged))
    found = [_history(dim, steps, [dim in of_step for of_step in flagged]) for dim in dims]
    never = len(steps)
    return tuple(sorted(found, key=lambda h: (never if h.emerged is None else h.emerged, h.dim)))


def followed(found: Sequence[History]) -> tuple[int, ...]:
    """The dimensions to switch off, ascending: those that emerged, or else all that were found."""
    emerged = [history.dim for history in found if history.emerged is not None]
    return tuple(sorted(emerged or [history.dim for history in found]))


def to_dict(steps: Sequence[Step], rule: str, *, also: Sequence[int] = ()) -> dict[str, Any]:
    """Plain JSON types; see :func:`histories`."""
    return {
        "schema": SCHEMA,
        "rule": rule,
        "steps": [
            {
                "reference": step.reference,
                "label": step.scan.label,
                "revision": step.scan.revision,
                "step": step.step,
                "dims": list(step.dims(rule)),
                "measured": step.measured and step.measured.model_dump(mode="json"),
                "unmeasurable": step.unmeasurable,
            }
            for step in steps
        ],
        "dimensions": [
            {
                **asdict(history),
                "emerged": None if history.emerged is None else steps[history.emerged].scan.label,
            }
            for history in histories(steps, rule, also=also)
        ],
    }


def _history(dim: int, steps: Sequence[Step], flagged: list[bool]) -> History:
    emerged = len(flagged)
    while emerged > 0 and flagged[emerged - 1]:
        emerged -= 1
    last = max((n for n, found in enumerate(flagged) if found), default=len(flagged) - 1)
    scans = [step.scan for step in steps]
    z_bias = [scan.z_bias for scan in scans if scan.z_bias is not None]
    biases = [scan.bias for scan in scans if scan.bias is not None]
    biased = len(z_bias) == len(biases) == len(scans)
    return History(
        dim=dim,
        flagged=tuple(flagged),
        emerged=emerged if emerged < len(flagged) else None,
        z_scale=tuple(_furthest(scan.z_scale[:, dim]) for scan in scans),
        z_bias=tuple(_furthest(z[:, dim]) for z in z_bias) if biased else None,
        scale=_track(dim, [s.scale for s in scans], [s.z_scale for s in scans], layer_of=last),
        bias=_track(dim, biases, z_bias, layer_of=last) if biased else None,
    )


def _furthest(z: NDArray[np.float64]) -> float:
    return float(z[np.argmax(np.abs(z))])


def _track(
    dim: int,
    values: Sequence[NDArray[np.float64]],
    z: Sequence[NDArray[np.float64]],
    *,
    layer_of: int,
) -> Track:
    """Follow a dimension in the layer where it stands furthest out in the step ``layer_of``."""
    layer = int(np.abs(z[layer_of][:, dim]).argmax())
    return Track(
        layer=layer,
        value=tuple(float(step[layer, dim]) for step in values),
        z=tuple(float(step[layer, dim]) for step in z),
        layer_mean=tuple(float(step[layer].mean()) for step in values),
        layer_std=tuple(float(step[layer].std(ddof=1)) for step in values),
        z_lowest=tuple(float(step[:, dim].min()) for step in z),
        z_highest=tuple(float(step[:, dim].max()) for step in z),
    )
