"""What can be asked of a checkpoint: the checks, their limits, and how each is decided.

The mathematics of deciding is in :mod:`robustness.statistics`, wording in a report in
:mod:`robustness.report`. Torch-free.
"""
