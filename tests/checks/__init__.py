"""./tests/checks."""
