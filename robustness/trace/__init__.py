"""The checkpoints of one training run over its steps: their order, and what emerged when.

How that is shown is left to :mod:`robustness.report.trace`. Torch-free.
"""
