"""Suites, benchmarks and what their scores mean."""
