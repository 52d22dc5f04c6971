"""./tests/checkpoint."""
