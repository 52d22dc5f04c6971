"""What a model computes on a few text blocks, reduced to what the activation rules look at.

Hooks see every layer's output, what its dense layers read and what its output writer makes of it.
Text blocks run one by one, without padding, and every tensor is reduced as it passes: per layer a
few numbers for each feature (and text block) are kept, nothing that grows with the positions. The
reductions are float64.
"""

from robustness.outliers.activations.inputs import dense_inputs
from robustness.outliers.activations.outputs import layer_outputs
from robustness.outliers.activations.spikes import require_dense_writers, spike_rounds

__all__ = ["dense_inputs", "layer_outputs", "require_dense_writers", "spike_rounds"]
