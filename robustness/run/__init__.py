"""./robustness/run."""
