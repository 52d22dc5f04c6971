"""Outlier dimensions while a model is being trained by transformers' Trainer."""

import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from robustness.ablation.ablation import plain_indices
from robustness.anatomy.live import LiveSites, live_sites
from robustness.checks.sanity import OutliersArePresent
from robustness.errors import RobustnessError, RuleError, UnsupportedSite
from robustness.outliers.outlier_dimensions import named
from robustness.outliers.rules import RULES
from robustness.outliers.rules.weights import z_scores
from robustness.policy.settings import Settings

MOST_TRACKED = 16
"""Dimensions that are tracked at most without being asked for, the first ones flagged."""

PREFIX = "outliers"
"""Of the logged names: ``outliers/count``, ``outliers/dim308/z_scale``."""

Action = Literal["log", "warn", "stop"]


class OutlierWarning(UserWarning):
    """Training has more outlier dimensions than it may have, or they cannot be looked for."""


@dataclass(frozen=True, kw_only=True)
class OutlierReading:
    """The outlier dimensions at one step of training."""

    step: int  # optimizer steps done
    rule: str  # what was asked for, readable
    # outlier dimension -> layers (0-based) in which it is flagged
    layers: Mapping[int, tuple[int, ...]]
    largest_z: float  # the z-score farthest from 0, of any scale or bias in any layer
    # tracked dimension -> z-score of its scale in every layer
    z_scale: Mapping[int, tuple[float, ...]]
    # tracked dimension -> that of its bias; ``None`` where the sites have none
    z_bias: Mapping[int, tuple[float, ...]] | None

    @property
    def dims(self) -> tuple[int, ...]:
        """The outlier dimensions, ascending."""
        return tuple(self.layers)

    def metrics(self) -> dict[str, float]:
        """What is logged: one number per name; z-scores are the median over the layers."""
        logged: dict[str, float] = {
            f"{PREFIX}/count": float(len(self.layers)),
            f"{PREFIX}/largest_z": self.largest_z,
        }
        for dim, scales in self.z_scale.items():
            logged[f"{PREFIX}/dim{dim}/layers"] = float(len(self.layers.get(dim, ())))
            logged[f"{PREFIX}/dim{dim}/z_scale"] = float(np.median(scales))
            if self.z_bias is not None:
                logged[f"{PREFIX}/dim{dim}/z_bias"] = float(np.median(self.z_bias[dim]))
        return logged


class OutlierCallback(TrainerCallback):
    """Looks for outlier dimensions every few steps, and logs them wherever the Trainer reports to.

    Unless it is told to stop, training goes on bit by bit as it would without the callback.

    Args:
        every_n_steps: optimizer steps between two readings; the first is before training, the last
            after it.
        settings: rule, its settings, stack and the limit, as from
            ``load_policy(...).settings(name)``; by default the policy's defaults. The (first) rule
            must be one on weights.
        tracked: dimensions whose z-scores are logged from the start; up to `MOST_TRACKED` others
            join as they are flagged.
        max_outliers: outlier dimensions that the model may have; by default the settings'
            ``checks.outliers_are_present.max``. For a model that is to have none, 0.
        action: what happens beyond that limit: ``log`` nothing but the numbers, ``warn`` as often
            as the dimensions change, or warn and ``stop`` training.

    Attributes:
        readings: all readings of this training, in order.

    Raises:
        RuleError: the rule reads activations.
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        *,
        every_n_steps: int = 100,
        settings: Settings | None = None,
        tracked: Iterable[int] = (),
        max_outliers: int | None = None,
        action: Action = "warn",
    ) -> None:
        self.settings = settings or Settings()
        self.readings: list[OutlierReading] = []
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps must be at least 1, not {every_n_steps}")
        if action not in get_args(Action):
            raise ValueError(f"action must be one of {', '.join(get_args(Action))}, not {action!r}")
        (self._rule_name, *_) = self.settings.rule_names
        if RULES[self._rule_name].needs_model:
            raise RuleError(
                f"rule {self._rule_name} reads activations, but training is watched by its weights "
                "alone; use busters or puccetti"
            )
        if max_outliers is None:
            max_outliers = OutliersArePresent().limits_in(self.settings.terms).max
        self._every = every_n_steps
        self._limit = max_outliers
        self._action: Action = action
        asked = tuple(tracked)
        self._tracked = list(plain_indices(asked, "dimension")) if asked else []
        self._n_asked = len(self._tracked)
        self._log: Callable[[dict[str, float]], None] | None = None
        self._sites: LiveSites | None = None
        self._warned: tuple[int, ...] = ()
        self._broken = False

    def attach(self, trainer: Trainer) -> "OutlierCallback":
        """Become one of a Trainer's callbacks, and log through it: callbacks get no other way."""
        self._log = trainer.log
        if self not in trainer.callback_handler.callbacks:
            trainer.add_callback(self)
        return self

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Trace the model and read it for the first time, or say why not: now, not after hours."""
        if self._log is None:
            raise RobustnessError(
                "OutlierCallback logs through its Trainer: call callback.attach(trainer) instead "
                "of naming it among the Trainer's callbacks"
            )
        self.readings.clear()
        self._warned, self._broken, self._sites = (), False, None
        # One process reads and logs; but all, which hold the same weights, have to stop together.
        if not (state.is_world_process_zero or self._action == "stop"):
            return
        self._sites = live_sites(kwargs["model"], stack=self.settings.stack)
        size = self._sites.stack.hidden_size
        beyond = [dim for dim in self._tracked if dim >= size]
        if beyond:
            raise UnsupportedSite(
                f"There is no dimension {beyond[0]} to track: the model's dimensions are numbered "
                f"from 0 to {size - 1}."
            )
        for dim in _tracked_before(state.log_history, size):
            self._track(dim)
        self._settle(self._read(self._sites, state.global_step), state, control)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Read the model every few steps, and after the last one."""
        due = state.global_step % self._every == 0 or state.global_step >= state.max_steps
        if self._sites is None or not due:
            return
        try:
            self._settle(self._read(self._sites, state.global_step), state, control)
            self._broken = False
        except RuleError as error:  # not finite: said once, and the training's own affair
            if not self._broken:
                self._warn(state, f"step {state.global_step}: {error}")
            self._broken = True

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Let go of the model."""
        self._sites = None

    def _read(self, sites: LiveSites, step: int) -> OutlierReading:
        rule, options = RULES[self._rule_name], self.settings.rules.of(self._rule_name)
        values = sites.read()
        distinct = values.distinct_sites
        outliers = rule.find(values.scale, values.bias, n_distinct=distinct, **options)
        for dim in outliers.dims:
            self._track(dim)
        scale = z_scores(values.scale)
        bias = None if values.bias is None else z_scores(values.bias)
        both = scale.ravel() if bias is None else np.concatenate([scale, bias]).ravel()
        return OutlierReading(
            step=step,
            rule=outliers.rule,
            layers={outlier.dim: outlier.layers for outlier in outliers.outliers},
            largest_z=float(both[np.abs(both).argmax()]),
            z_scale=_columns(scale, self._tracked),
            z_bias=None if bias is None else _columns(bias, self._tracked),
        )

    def _track(self, dim: int) -> None:
        if dim not in self._tracked and len(self._tracked) - self._n_asked < MOST_TRACKED:
            self._tracked.append(dim)

    def _settle(
        self, reading: OutlierReading, state: TrainerState, control: TrainerControl
    ) -> None:
        self.readings.append(reading)
        if state.is_world_process_zero:
            assert self._log is not None
            wanted = control.should_log  # logging takes it for done, and the loss is still to come
            self._log(reading.metrics())
            control.should_log = wanted
        if len(reading.dims) <= self._limit or self._action == "log":
            return
        if reading.dims != self._warned:
            self._warned = reading.dims
            end = "; training stops" if self._action == "stop" else ""
            self._warn(
                state,
                f"step {reading.step}: {named(reading.dims)} stand out ({reading.rule}), more than "
                f"the {self._limit} that this training may have{end}",
            )
        control.should_training_stop |= self._action == "stop"

    @staticmethod
    def _warn(state: TrainerState, message: str) -> None:
        if state.is_world_process_zero:
            warnings.warn(message, OutlierWarning, stacklevel=2)


def _columns(values: NDArray[np.float64], dims: Iterable[int]) -> dict[int, tuple[float, ...]]:
    return {dim: tuple(values[:, dim].tolist()) for dim in dims}


def _tracked_before(history: Sequence[Mapping[str, Any]], hidden_size: int) -> list[int]:
    """The dimensions that a resumed training has tracked so far."""
    pattern = re.compile(rf"{PREFIX}/dim(\d+)/layers")
    names = (match for entry in history for name in entry if (match := pattern.fullmatch(name)))
    dims = dict.fromkeys(int(match[1]) for match in names)
    return [dim for dim in dims if dim < hidden_size]
