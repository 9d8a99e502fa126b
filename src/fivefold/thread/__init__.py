"""plan → steps → run → findings → decision."""
