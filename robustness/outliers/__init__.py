"""./robustness/outliers."""
