"""The command line, one file a command group."""


def main() -> None:
    """Entry point of the `fivefold` command."""
    raise SystemExit(0)
