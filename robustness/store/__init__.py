"""./robustness/store."""
