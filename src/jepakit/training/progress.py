"""What a person sees while a run trains."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from jepakit.training.cost import format_seconds
from jepakit.training.distributed import is_main

COLOURS = {
    "healthy": "green",
    "warning": "yellow",
    "fragmented": "yellow",
    "collapsed": "bold red",
    "diverged": "bold red",
}


class Progress:
    """A progress bar with loss, samples/s and the time left; lines of text where there is no terminal."""

    def __init__(self, steps: int, console: Console | None = None):
        self.console = console or Console(stderr=True)
        self.console.quiet = not is_main()
        self.bars = Bars(
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
            transient=True,
        )
        self.task = self.bars.add_task("starting", total=steps)
        self.said = 0.0

    def __enter__(self) -> Progress:
        self.bars.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.bars.stop()

    def update(self, line: dict[str, Any], steps: int) -> None:
        """Show a metrics line."""
        text = f"loss {line['loss']:.4f}  {line['time/samples_per_s']:,.0f} samples/s"
        self.bars.update(self.task, completed=line["step"], description=text)
        if not self.console.is_terminal and (line["progress"] >= self.said + 0.1 or line["step"] == steps):
            self.said = line["progress"]
            left = line["time/step_s"] * (steps - line["step"])
            self.say(f"step {line['step']}/{steps}  {text}" + (f"  {format_seconds(left)} left" if left else ""))

    def health(self, values: dict[str, Any], step: int, changed: bool) -> None:
        """Show a health line; a changed verdict is told in full."""
        if "health/verdict" not in values:
            seen = [f"{name.replace('/', ' ')} {value:.3f}" for name, value in values.items() if isinstance(value, float)]
            if seen and all("/" in name and not name.startswith("health/") for name in values):
                self.say(f"step {step}: {', '.join(seen)}")
            return
        verdict = values["health/verdict"]
        if changed and verdict != "start":
            self.say(f"health at step {step}: {verdict} — {values['health/message']}", COLOURS.get(verdict))

    def say(self, text: str, style: str | None = None) -> None:
        """Print above the bar, as it stands: a path may hold what rich would read as a style or an emoji."""
        self.console.print(text, style=style, markup=False, emoji=False, highlight=False, soft_wrap=True)
