"""Intervals, paired tests, power, multiple comparisons and correction for judge error."""
