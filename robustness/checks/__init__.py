"""./robustness/checks."""
