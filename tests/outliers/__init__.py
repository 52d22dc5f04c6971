"""./tests/outliers."""
