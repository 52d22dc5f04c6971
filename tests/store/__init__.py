"""./tests/store."""
