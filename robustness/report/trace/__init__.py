"""./robustness/report/trace."""
