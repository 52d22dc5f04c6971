"""./tests/cli."""
