"""./tests/trace."""
