"""./robustness/statistics."""
