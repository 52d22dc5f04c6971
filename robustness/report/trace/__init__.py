"""What a trace shows, on a terminal and as a page: when outlier dimensions emerged.

The steps themselves are found in :mod:`robustness.trace`. Torch-free.
"""
