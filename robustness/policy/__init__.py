"""./robustness/policy."""
