"""./robustness/report/terminal."""
