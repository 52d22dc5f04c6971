"""./robustness/checks/tasks."""
