"""./tests/statistics."""
