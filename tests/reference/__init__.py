"""./tests/reference."""
