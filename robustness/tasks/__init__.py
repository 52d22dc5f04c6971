"""Downstream tasks: labelled examples, heads, predictions on them, and metrics.

What a task says of an ablation is claimed in :mod:`robustness.checks.tasks`. Torch-free but for
`predict`.
"""
