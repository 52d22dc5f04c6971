"""Commands of the console program ``robustness``, one a module."""
