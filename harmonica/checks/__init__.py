"""Checks of the suite itself: traces, smoke tests, benchmarks, estimates, timing."""
