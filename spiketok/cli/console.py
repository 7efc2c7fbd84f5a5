"""What the command line prints: tables on a terminal, plain tab-separated lines in a pipe, JSON on request.

Results go to stdout; progress, repairs and errors go to stderr. What names and texts of files could tell a terminal (to
move, to colour, to write backwards) is shown as an escape.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO

from spiketok.cli.tables import folded, lay_out

LONGEST_LINE = 2000  # letters of an error
WIDE = 110  # columns of a terminal that has room for the name of the item at work
QUIET_S = 2.0  # work that is done sooner shows no progress bar


def shown(text: object, keep: str = "\n\t") -> str:
    """A text with each sign that a terminal would obey, but those to keep, as an escape such as ``\\x1b``."""
    text = str(text)
    if text.isprintable():
        return text
    obeyed = ("Cc", "Cf", "Cs", "Zl", "Zp")
    escaped = (ascii(c)[1:-1] if c not in keep and unicodedata.category(c) in obeyed else c for c in text)
    return "".join(escaped)


def show(text: object = "", indent: int = 2) -> None:
    """A line of the result, which may hold what a file says; ``indent``: of its further lines on a terminal."""
    print(_fold(shown(text), sys.stdout, indent), flush=True)


def show_rows(title: str, columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> None:
    """Print rows as a table on a terminal, as tab-separated lines with a header line in a pipe."""
    cells = [[_text(row.get(column)) for column in columns] for row in rows]
    if not sys.stdout.isatty():
        print("\t".join(columns))
        for line in cells:
            print("\t".join(line))
        return
    numeric = [bool(rows) and all(isinstance(row.get(c), int | float | None) for row in rows) for c in columns]
    table = lay_out(columns, cells, numeric, terminal_width())
    bold, plain = ("\033[1m", "\033[0m") if not os.environ.get("NO_COLOR") else ("", "")
    print(f"{bold}{shown(title)}{plain}")
    print("\n".join(table.lines))
    if table.left_out:
        print(f"(no room for {', '.join(table.left_out)}: --json shows all)")


def terminal_width() -> int:
    """Columns of the terminal."""
    return shutil.get_terminal_size((80, 24)).columns


def _fold(text: str, stream: IO[str], indent: int = 2) -> str:
    """A line as it is in a pipe; on a terminal broken between words and never inside of one."""
    return folded(text, terminal_width(), indent) if stream.isatty() else text


def show_json(value: object) -> None:
    """Print a result as one JSON document."""
    print(json.dumps(value, indent=2, default=str))


def _text(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        places = 3 if abs(value) < 100 else 1
        return f"{value:,.{places}f}" if sys.stdout.isatty() else f"{value:.{places}f}"
    if isinstance(value, int):
        return f"{value:,}" if sys.stdout.isatty() else str(value)
    return shown(value, keep="")


def say(text: str) -> None:
    """A line for the person, on stderr, so that stdout stays a result."""
    print(_fold(shown(text), sys.stderr), file=sys.stderr, flush=True)


def complain(text: str) -> None:
    """An error line on stderr; red on a terminal. A very long one is cut: it repeats what somebody typed or wrote."""
    text = text if len(text) <= LONGEST_LINE else f"{text[: LONGEST_LINE // 2]} ... {text[-LONGEST_LINE // 2 :]}"
    red, plain = ("\033[31m", "\033[0m") if sys.stderr.isatty() else ("", "")
    line = _fold(f"error: {shown(text)}", sys.stderr, 7).removeprefix("error:")
    print(f"{red}error:{plain}{line}", file=sys.stderr, flush=True)


def clock(seconds: float) -> str:
    """A length of time as people read it: ``"8 s"``, ``"3:05 min"``, ``"1:02:03 h"``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, left = divmod(whole, 60)
    return f"{minutes}:{left:02d} min" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{left:02d} h"


def times_words(elapsed_s: float, done: float, total: float | None) -> str:
    """How long work took so far and how long it will go on at this rate, each with its name."""
    left = f", {clock(elapsed_s * (total - done) / done)} left" if total and done else ""
    return f"{clock(elapsed_s)} elapsed{left}"


@contextlib.contextmanager
def progress(title: str, total: float | None, measure: str = "items") -> Iterator[Callable[[float, str], None]]:
    """A bar on stderr with rate and time left, from two seconds on; none where stderr is not a terminal.

    Yields:
        ``advance(amount, detail)``: moves the bar on and names what it is at.
    """
    if not sys.stderr.isatty():
        yield lambda amount=0, detail="": None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TransferSpeedColumn,
    )

    in_bytes = measure == "bytes"
    amounts = (
        [DownloadColumn(), TransferSpeedColumn()]
        if in_bytes
        else [MofNCompleteColumn(), TextColumn("{task.fields[rate]}")]
    )
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        *amounts,
        TextColumn("{task.fields[times]}"),
        *([TextColumn("{task.fields[detail]}", style="dim", markup=False)] if console.width >= WIDE else []),
        console=console,
        transient=True,
    )
    task = bar.add_task(title, total=total, rate="", detail="", times="")
    begun = time.monotonic()
    started, done = False, 0.0

    def advance(amount: float = 1, detail: str = "") -> None:
        nonlocal started, done
        done += amount
        elapsed = time.monotonic() - begun
        if not started and elapsed > QUIET_S:
            bar.start()
            started = True
        rate = f"{done / elapsed:.1f} {measure}/s" if elapsed > 0 and not in_bytes else ""
        bar.update(task, advance=amount, rate=rate, detail=shown(detail), times=times_words(elapsed, done, total))

    try:
        yield advance
    finally:
        if started:
            bar.stop()


@contextlib.contextmanager
def training_table() -> Iterator[Callable[[Mapping[str, object]], None]]:
    """A live table of a training on a terminal's stderr; in a pipe a line at the start and each tenth of the steps.

    Yields:
        the listener for ``training.train(on_event=...)``.
    """
    state: dict[str, object] = {}
    begun = time.monotonic()

    def start_line(event: Mapping[str, object]) -> str:
        return (
            f"{event['model']} {event['size']}: {event['parameters']:,} parameters, {len(event['sessions'])} sessions, "
            f"{event['units']} units, {event['train_s']:.0f} s of training time, asked: {', '.join(event['tasks'])}"
        )

    def going_on_line(event: Mapping[str, object]) -> str:
        """How far an earlier command had come, where there is something left."""
        return f"going on from step {event['step']} of {event['total_steps']}" if event["going_on"] else ""

    def dropped_line(event: Mapping[str, object]) -> str:
        """What time of the training splits no window can use, and why."""
        from spiketok.training.sampling import dropped_words

        words = dropped_words(event["dropped"])
        return f"no window uses: {words}" if words else ""

    def guard_line(event: Mapping[str, object]) -> str:
        """How far windows reach, where time near split borders was given up for it."""
        return f"near other splits: windows reach {event['reach']}" if event["dropped"].get("split_border_ns") else ""

    def days_line(event: Mapping[str, object]) -> str:
        """The sessions that the rule of days keeps for later."""
        others = event["other_days"]
        shown = ", ".join(others[:6]) + (f" and {len(others) - 6} more" if len(others) > 6 else "")
        return f"of later days, not trained on (for eval-xsession): {shown}" if others else ""

    def first_lines(event: Mapping[str, object]) -> list[str]:
        base = f"the weights of {event['base']}, which knows its sessions too" if event["base"] else ""
        lines = (
            going_on_line(event),
            start_line(event),
            base,
            dropped_line(event),
            guard_line(event),
            days_line(event),
            event["stand_in"],
        )
        return [line for line in (*lines, *event["findings"]) if line]

    def losses(event: Mapping[str, object]) -> str:
        return ", ".join(f"{name} {value:.4f}" for name, value in event["loss"].items())

    if not sys.stderr.isatty():

        def listen(event: Mapping[str, object]) -> None:
            if event["event"] == "start":
                for line in first_lines(event):
                    say(line)
            elif event["event"] == "step":
                tenth = 10 * event["step"] // event["total_steps"]
                if tenth != state.get("tenth"):
                    state["tenth"] = tenth
                    rate = event["windows_per_s"]
                    say(f"step {event['step']}/{event['total_steps']}: {losses(event)}, {rate:.0f} windows/s")

        yield listen
        return

    from rich.console import Console
    from rich.live import Live
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    def table() -> Table:
        grid = Table.grid(padding=(0, 2))
        step, total = state.get("step", 0), state.get("total_steps", 1)
        elapsed = time.monotonic() - begun
        fresh = step - state.get("first", 0)
        left = f", {clock(elapsed * (total - step) / fresh)} left" if fresh else ""
        grid.add_row(
            "step",
            f"{step} of {total}",
            ProgressBar(total=total, completed=step, width=20),
            f"{clock(elapsed)} elapsed{left}",
        )
        if "loss" in state:
            rate = f"{state['windows_per_s']:.0f} windows/s"
            grid.add_row("loss", losses(state), f"learning rate {state['lr']:.2e}", rate)
        for session, scores in state.get("scores", {}).items():
            for task, score in scores.items():
                name, value = next(iter(score.items()))
                grid.add_row("valid", shown(session), f"{task}: {name} {'-' if value is None else f'{value:.3f}'}", "")
        return grid

    with Live(
        table(), console=Console(stderr=True, markup=False, emoji=False), refresh_per_second=4, transient=True
    ) as live:

        def draw(event: Mapping[str, object]) -> None:
            if event["event"] == "start":
                for line in first_lines(event):
                    live.console.print(shown(line), markup=False, highlight=False)
                state.update(step=event["step"], first=event["step"], total_steps=event["total_steps"])
            elif event["event"] in ("step", "valid"):
                state.update(event)
            live.update(table())

        yield draw
