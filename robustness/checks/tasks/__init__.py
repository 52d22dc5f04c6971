"""What can be asked of a checkpoint on its downstream task.

Examples, predictions and metrics are in :mod:`robustness.tasks`. Torch-free.
"""
