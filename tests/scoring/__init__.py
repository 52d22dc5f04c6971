"""./tests/scoring."""
