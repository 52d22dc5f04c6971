"""./robustness/checkpoint."""
