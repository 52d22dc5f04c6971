"""Outlier dimensions: what rules look at, what they find, and scans of weights alone.

The rules themselves are in :mod:`robustness.outliers.rules`; whether a dimension matters is
measured above. Torch-free.
"""
