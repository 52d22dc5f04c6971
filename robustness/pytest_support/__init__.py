"""What ties vetting to pytest: collection, fixtures, the controller and the workers."""
