"""What several suites use to look at the system from outside."""
