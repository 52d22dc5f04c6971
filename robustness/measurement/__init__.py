"""(checkpoint, corpus or task, intervention) -> numbers in the store, measured once.

What is asked comes from :mod:`robustness.scoring`; what the numbers mean is decided in
:mod:`robustness.checks`. Torch-free but for `execution`, `loaded_model`, `predictor`.
"""
