"""./tests/measurement."""
