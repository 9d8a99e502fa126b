"""What a person sees while a plan runs: the plan with its cost, then one line a step with the time that is left."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fivefold.cli.output import console

if TYPE_CHECKING:
    from fivefold.runtime.protocol import Cost


def clock(seconds: float) -> str:
    """`1:05` or `0:07`."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


class LiveProgress:
    """Shows steps on a terminal as they run; on a pipe, one plain line a step and a heartbeat every 20 seconds."""

    def __init__(self, out: Console | None = None) -> None:
        self.out = out or console()
        self._live: Live | None = None
        self._title, self._note = "", ""
        self._done = self._total = 0.0
        self._began = self._started = time.monotonic()
        self._beat = 0.0
        self._expected: dict[str, float] = {}
        self._finished: set[str] = set()
        self._step = ""

    def plan(self, steps: list[tuple[str, str, Cost]], budget: float | None) -> None:
        """Print every step with its requests, tokens and minutes."""
        shown = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("step", "requests", "tokens", "minutes"):
            shown.add_column(column, justify="left" if column == "step" else "right")
        tokens = 0
        for name, title, cost in steps:
            count = cost.prompt_tokens + cost.completion_tokens + cost.train_tokens
            tokens += count
            self._expected[name] = cost.minutes * 60
            shown.add_row(title, _n(cost.requests), _n(count), f"{cost.minutes:.1f}")
        minutes = sum(c.minutes for _, _, c in steps)
        money = sum(c.money for _, _, c in steps)
        shown.add_row("in all", _n(sum(c.requests for _, _, c in steps)), _n(tokens), f"{minutes:.1f}", style="bold")
        self.out.print(shown)
        limit = f", budget {budget:g} minutes" if budget else ""
        self.out.print(f"money {money:.2f}{limit}\n")

    def start(self, name: str, title: str) -> None:
        """A step starts."""
        self._step, self._title, self._note = name, title, ""
        self._done = self._total = 0.0
        self._began = time.monotonic()
        if self.out.is_terminal and self._live is None:
            self._live = Live(
                self._line(), console=self.out, refresh_per_second=4, transient=True, get_renderable=self._line
            )
            self._live.start()

    def advance(self, done: float, total: float, note: str = "") -> None:
        """The running step has done `done` of `total`."""
        self._done, self._total, self._note = done, total, note
        now = time.monotonic()
        if not self.out.is_terminal and now - self._beat > 20:
            self._beat = now
            self.out.print(self._line())

    def finish(self, name: str, seconds: float, summary: str, *, reused: bool) -> None:
        """A step is done."""
        self._finished.add(name)
        if self._live is not None:
            self._live.stop()
            self._live = None
        how = "kept from before" if reused else clock(seconds)
        self.out.print(f"[green]✓[/green] {self._title:<42} {how:>16}  {summary}", markup=True)

    def say(self, text: str) -> None:
        """One line worth reading now."""
        self._note = text

    def close(self) -> None:
        """Give the terminal back."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _line(self) -> Text:
        spent = time.monotonic() - self._began
        share = self._done / self._total if self._total else 0.0
        bar = "█" * int(share * 20) + "░" * (20 - int(share * 20))
        left = spent / share - spent if share > 0.02 else max(0.0, self._expected.get(self._step, 0.0) - spent)
        later = sum(s for n, s in self._expected.items() if n not in self._finished and n != self._step)
        count = f"{self._done:g}/{self._total:g}" if self._total else ""
        return Text(
            f"· {self._title:<42} {bar} {count:>9}  {clock(spent)}, step {clock(left)} left, "
            f"run about {clock(left + later)} left  {self._note}"
        )


def _n(value: int) -> str:
    return f"{value:,}" if value else "–"
