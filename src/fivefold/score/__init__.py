"""(Case, Completion) -> Outcome: rules, judges, sandboxed code."""
