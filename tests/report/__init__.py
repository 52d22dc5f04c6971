"""./tests/report."""
