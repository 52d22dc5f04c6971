"""./robustness/measurement."""
