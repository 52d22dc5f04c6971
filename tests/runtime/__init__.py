"""./tests/runtime."""
