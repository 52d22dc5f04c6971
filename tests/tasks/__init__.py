"""./tests/tasks."""
