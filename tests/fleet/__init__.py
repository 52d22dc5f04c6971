"""./tests/fleet."""
