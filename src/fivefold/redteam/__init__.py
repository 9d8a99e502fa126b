"""Attacks, transforms, search within a budget, findings."""
