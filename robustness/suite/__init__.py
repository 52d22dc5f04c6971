"""The packaged suite: run by ``pytest --model=X``, or by ``pytest --pyargs robustness.suite``."""
