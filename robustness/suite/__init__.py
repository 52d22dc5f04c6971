"""The packaged suite: run by ``pytest --model=X``, or by ``pytest --pyargs robustness.suite``.

The checks as a specification, one short test function each; how they are decided is in
:mod:`robustness.checks`. Torch-free.
"""
