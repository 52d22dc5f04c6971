"""./tests/anatomy."""
