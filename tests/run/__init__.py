"""./tests/run."""
