"""./robustness/reference."""
