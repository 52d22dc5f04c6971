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
    """One rule.

    Attributes:
        reads: what its first arguments are: ``parameters`` (scale and bias at the output sites),
            ``outputs`` (:class:`~robustness.outliers.rules.summaries.LayerOutputs`), ``inputs``
            (:class:`~robustness.outliers.rules.summaries.DenseInputs`) or ``spikes`` (a sequence of
            :class:`~robustness.outliers.rules.summaries.Spikes`).
        find: the rule; its keyword arguments are its settings in the policy.
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
