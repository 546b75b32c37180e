"""The test suite. It runs on real servers only; see CONTRIBUTING.md for its rules."""
