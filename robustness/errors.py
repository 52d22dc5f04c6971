"""The error hierarchy: every class says why it is seen, every message what to do about it.

A message is one sentence that can be shown to a user without a traceback. The pytest layer turns
each of these into ``pytest.UsageError`` (exit code 4) before a run and into a test error within it.
Every room may raise them, but for :mod:`robustness.runtime`, which makes their text printable.
"""

from robustness.runtime.plain import plain


class RobustnessError(Exception):
    """Base of everything this package raises on purpose.

    Its message is always one printable line, whatever names from a checkpoint it quotes.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(plain(message))


class CheckpointError(RobustnessError):
    """A checkpoint cannot be found, resolved, verified or loaded."""


class NoLanguageModel(CheckpointError):
    """A checkpoint is complete, but has no language-model head: only a task can vet it."""


class UnsupportedArchitecture(RobustnessError):
    """Tracing found no repeated layers, or no head, that the measurement could use."""


class UnsupportedSite(RobustnessError):
    """The model has no place of the kind asked for where a feature can be switched off."""


class CorpusError(RobustnessError):
    """A corpus cannot be found or read, or is too short to measure anything."""


class TaskError(RobustnessError):
    """A task's examples cannot be read, or do not suit the checkpoint."""


class PolicyError(RobustnessError):
    """A policy file or option holds an unknown key, a wrong type or an impossible value."""


class RuleError(RobustnessError):
    """A rule is unknown, or cannot say anything about this model."""


class NotFinite(RuleError):
    """What a rule compares is NaN or infinite: the checkpoint is broken, not the question."""


class MeasurementError(RobustnessError):
    """A measurement gave something that is not a number, or could not be carried out."""


class BaselineError(RobustnessError):
    """A profile cannot be read, or its numbers cannot be compared with those of this run."""


class ShardError(RobustnessError):
    """The reports of a run's shards cannot be read, or do not belong together."""


class FleetError(RobustnessError):
    """A run over several machines cannot be started, or a node cannot do its part at all."""


class ReportError(RobustnessError):
    """A saved report cannot be read, or a report cannot be made of it."""


class PlanError(RobustnessError):
    """The plan that a worker process was handed is damaged, or of another version."""
