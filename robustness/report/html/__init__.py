"""./robustness/report/html."""
