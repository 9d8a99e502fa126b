"""Safety evaluations of our own, one family a file; what they measure stands in docs/concepts/safety-evaluations.md."""
