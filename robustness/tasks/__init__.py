"""Downstream tasks: labelled examples, metrics, and what predictions say of a drop of a score.

Predictions are made in :mod:`robustness.measurement`; what a task says of an ablation is asked in
:mod:`robustness.checks.tasks`. Torch-free.
"""
