"""./tests/hostile."""
