"""What the model predicts depends on its outlier dimensions, or does not."""

from robustness.pytest_support.gate import Gate
from robustness.vetting import Vetting


def test_ablation_changes_predictions(vetting: Vetting, gate: Gate) -> None:
    """Without all outlier dimensions at least ``min_share`` of the predictions are others."""
    gate.decide(vetting)
