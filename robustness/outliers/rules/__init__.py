"""The rules that find outlier dimensions: pure, deterministic float64 functions of arrays.

Which arrays a rule reads decides what has to be loaded: those that read ``parameters`` never need
the model; the others look at what it computes on a few text blocks of the corpus. Torch-free.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from robustness.outliers.outliers import Detection
from robustness.outliers.rules.activations import kurtosis, llm_int8, massive, variance
from robustness.outliers.rules.spikes import super_weight
from robustness.outliers.rules.weights import busters, puccetti

Reads = Literal["parameters", "outputs", "inputs", "spikes"]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A rule, whose keyword arguments are its settings in the policy, and what it reads.

    That is ``parameters`` (scale and bias at the output sites), or ``outputs``, ``inputs`` or
    ``spikes``, see :mod:`robustness.outliers.rules.summaries`.
    """

    reads: Reads
    find: Callable[..., Detection]

    @property
    def needs_model(self) -> bool:
        """Whether the model has to be run for it."""
        return self.reads != "parameters"


RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "busters": Rule(reads="parameters", find=busters),
        "puccetti": Rule(reads="parameters", find=puccetti),
        "llm-int8": Rule(reads="inputs", find=llm_int8),
        "massive": Rule(reads="outputs", find=massive),
        "variance": Rule(reads="outputs", find=variance),
        "kurtosis": Rule(reads="outputs", find=kurtosis),
        "super-weight": Rule(reads="spikes", find=super_weight),
    }
)
"""By name, as in the policy and after ``--robustness-rule``."""
