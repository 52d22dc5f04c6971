"""./robustness/runtime."""
