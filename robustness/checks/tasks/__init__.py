"""What can be asked of a checkpoint on its downstream task.

Examples and metrics are in :mod:`robustness.tasks`, predictions are made in
:mod:`robustness.measurement`. Torch-free.
"""
