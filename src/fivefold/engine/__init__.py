"""Runs cases × model × solver × scorer on Inspect and reads its logs back as outcomes."""
