"""What the suites share: a server of their own, clients set up as users set them up, test data."""
