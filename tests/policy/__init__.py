"""./tests/policy."""
