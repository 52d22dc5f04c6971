"""./tests/support/checkpoints."""
