"""What is happening, on the terminal: rich where there is one, plain lines where not."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Final

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from .runner import Progress, Runner

_BARS: Final = " ▁▂▃▄▅▆▇█"
_COLOURS: Final = {
    "done": "green", "retry": "yellow", "died": "magenta", "kill": "bold red", "failed": "red",
    "LOST": "bold white on red", "STUCK": "bold red",
}  # fmt: skip
REFRESH_S: Final = 0.25
PLAIN_S: Final = 5.0


class Rates:
    """Operations per second, now and over the last minute."""

    def __init__(self) -> None:
        self.history: deque[float] = deque(maxlen=60)
        self._operations = 0
        self._at = time.monotonic()

    def look(self, operations: int) -> None:
        """Take a sample, at most once a second."""
        now = time.monotonic()
        if now - self._at >= 1:
            self.history.append((operations - self._operations) / (now - self._at))
            self._operations, self._at = operations, now

    def sparkline(self) -> str:
        """Return the history as bars."""
        top = max(self.history, default=0) or 1
        return "".join(_BARS[min(8, round(8 * rate / top))] for rate in self.history)


def watch(runner: Runner) -> None:
    """Run `runner` in a thread and show it until it ends; Ctrl-C stops it and goes on showing."""
    failure: list[BaseException] = []
    # Not `thread.is_alive`: in Python 3.11 a join that Ctrl-C interrupts takes the thread for ended.
    ended = threading.Event()

    def work() -> None:
        try:
            runner.run()
        except BaseException as error:  # noqa: BLE001 raised again below
            failure.append(error)
        finally:
            ended.set()

    thread = threading.Thread(target=work)
    thread.start()
    console = Console()
    show = _watch_live if console.is_terminal else _watch_plain
    while not ended.is_set():
        try:
            show(console, runner.progress, ended)
        except KeyboardInterrupt:
            console.print("stopping: activities under way end first ...")
            runner.stop()
    thread.join()
    if failure:
        raise failure[0]


def _watch_live(console: Console, progress: Progress, ended: threading.Event) -> None:
    rates = Rates()
    with Live(console=console, refresh_per_second=4, screen=False) as live:
        while not ended.is_set():
            rates.look(progress.tally.operations)
            live.update(picture(progress, rates))
            ended.wait(REFRESH_S)
        live.update(picture(progress, rates))


def _watch_plain(_console: Console, progress: Progress, ended: threading.Event) -> None:
    while not ended.wait(PLAIN_S):
        print(line(progress), flush=True)


def line(progress: Progress) -> str:
    """Return all of it in one line."""
    tally = progress.tally
    total = "∞" if progress.total is None else progress.total
    return (
        f"{time.monotonic() - progress.began:5.0f} s  {progress.phase}  {progress.done}/{total} done, "
        f"{progress.running} running, {progress.retries} retries, {progress.kills} kills, "
        f"{progress.failed} failed, {progress.verified} verified, {progress.lost} lost; "
        f"{tally.files} files, {tally.bytes / 1e6:.1f} MB, {tally.snapshots} snapshots"
    )


def picture(progress: Progress, rates: Rates) -> Panel:
    """Return the dashboard."""
    tally = progress.tally
    elapsed = max(time.monotonic() - progress.began, 1e-3)
    head = Table.grid(expand=True, padding=(0, 1))
    total = progress.total
    bar = ProgressBar(total=total, completed=progress.done) if total else ProgressBar(total=None, pulse=True)
    head.add_row(Text(f"{progress.done}/{total or '∞'}", style="bold"), bar, Text(f"{elapsed:.0f} s"))
    numbers = Table.grid(expand=True)
    for _ in range(6):
        numbers.add_column(justify="center")
    numbers.add_row(
        _figure(progress.running, "running", "cyan"), _figure(progress.done, "done", "green"),
        _figure(progress.retried, "retried", "yellow"), _figure(progress.failed, "failed", "red"),
        _figure(progress.kills, "daemons killed", "magenta"), _figure(progress.lost, "lost", "red"),
    )  # fmt: skip
    numbers.add_row(
        _figure(tally.files, "files"), _figure(f"{tally.bytes / 1e6:.1f}", "MB"),
        _figure(tally.snapshots, "snapshots"),
        _figure(progress.retries, "retries survived"), _figure(progress.rollbacks, "rollbacks"),
        _figure(f"{rates.history[-1]:.0f}" if rates.history else "-", "ops/s"),
    )  # fmt: skip
    with progress.lock:
        events = list(progress.events)[-8:]
    feed = Text("\n").join(
        Text.assemble(
            (time.strftime("%H:%M:%S ", time.localtime(at)), "dim"),
            (f"{kind:<7}", _COLOURS.get(kind, "white")),
            text[:100],
        )
        for at, kind, text in events
    )
    spark = Text(rates.sparkline(), style="cyan")
    title = f"research agents: {progress.phase}"
    return Panel(Group(head, Text(), numbers, Text(), spark, Text(), feed), title=title, border_style="blue")


def _figure(value: object, name: str, colour: str = "white") -> Text:
    return Text.assemble((str(value), f"bold {colour}"), "\n", (name, "dim"), justify="center")
