"""``stream SESSION --run RUN``: predictions of a live stream as they come, and what they took."""

from __future__ import annotations

import contextlib
import json
import sys
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from spiketok.cli.console import say, show, show_rows, shown
from spiketok.errors import require

if TYPE_CHECKING:
    from spiketok.evaluation.live import Decoded
    from spiketok.evaluation.stream import Streamed
    from spiketok.storage.workspace import Workspace

SHOWN = 12  # windows of the live table


def stream_run(
    workspace: Workspace,
    session_id: str,
    run: str,
    *,
    split: str,
    step_ns: int | None,
    piece_ns: int,
    speed: float | None,
    duration_ns: int | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Stream a session through a run, print each window as it comes, then the scores and latencies."""
    require("torch", "train", "live decoding")
    from spiketok.evaluation.stream import stream
    from spiketok.storage.store import read_session
    from spiketok.training.checkpoints import load_run
    from spiketok.training.predictions import write_predictions
    from spiketok.training.runs import find_run, open_shards

    loaded = load_run(find_run(workspace, run))
    (tokens,) = open_shards(workspace, [session_id], loaded.config)
    with _windows_shown(as_json) as show:
        found = stream(
            loaded,
            tokens,
            read_session(workspace.store_path(session_id)),
            split=split,
            step_ns=step_ns,
            duration_ns=duration_ns,
            piece_ns=piece_ns,
            speed=speed,
            on_window=show,
        )
    files = [] if out is None else write_predictions(out, session_id, found.answers)
    if as_json:
        print(json.dumps({"summary": _summary(found) | {"files": [str(path) for path in files]}}))
        return
    _show_summary(found)
    if files:
        say(f"{len(files)} files of predictions in {out}")


@contextlib.contextmanager
def _windows_shown(as_json: bool) -> Iterator[Callable[[Decoded, int], None]]:
    """Each window as it comes: JSON lines, a table of the last ones on a terminal, lines with tabs in a pipe."""
    if as_json:
        yield lambda decoded, total_ns: print(json.dumps(_as_json(decoded, total_ns)), flush=True)
        return
    if not sys.stdout.isatty():
        print("\t".join(COLUMNS))
        yield lambda decoded, total_ns: [show("\t".join(row)) for row in _rows(decoded, total_ns)]
        return
    from rich import box
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table

    last: deque[list[str]] = deque(maxlen=SHOWN)

    def table() -> Table:
        made = Table(box=box.SIMPLE_HEAD, header_style="bold")
        for column in COLUMNS:
            made.add_column(column)
        for row in last:
            made.add_row(*row)
        return made

    with Live(get_renderable=table, console=Console(markup=False, emoji=False), refresh_per_second=8) as live:
        yield lambda decoded, total_ns: last.extend(
            [shown(cell, "") for cell in row] for row in _rows(decoded, total_ns)
        )
        live.refresh()


COLUMNS = ("time_s", "task", "prediction", "times", "latency_ms")


def _rows(decoded: Decoded, total_ns: int) -> list[list[str]]:
    """A line for each task that the window answers: its last time, what is said there, and how many times there are."""
    return [
        [
            f"{decoded.time_ns[task][-1] / 1e9:.3f}",
            task,
            " ".join(f"{number:.4g}" for number in value[-1].tolist()),
            str(len(value)),
            f"{total_ns / 1e6:.2f}",
        ]
        for task, value in decoded.value.items()
        if len(value)
    ]


def _as_json(decoded: Decoded, total_ns: int) -> dict:
    answers = {
        task: {"time_ns": decoded.time_ns[task].tolist(), "prediction": value.tolist()}
        for task, value in decoded.value.items()
    }
    latency = {"tokens": decoded.tokens_ns / 1e6, "model": decoded.model_ns / 1e6, "total": total_ns / 1e6}
    return {"start_ns": decoded.start_ns, "answers": answers, "latency_ms": latency}


def _summary(found: Streamed) -> dict:
    facts = {name: value for name, value in vars(found).items() if name not in ("answers", "live", "offline", "apart")}
    scores = {
        task: {"live": live, "offline": found.offline[task], "apart": found.apart[task]}
        for task, live in found.live.items()
    }
    return facts | {"scores": scores}


def _show_summary(found: Streamed) -> None:
    rows = [
        {
            "task": task,
            "prediction": name,
            **{key: v for key, v in score.items() if v is None or not isinstance(v, dict)},
        }
        for task in found.live
        for name, score in (("live", found.live[task]), ("offline", found.offline[task]))
    ]
    show_rows("scores of the times that both answer", list(rows[0]), rows)
    rows = [{"latency_ms": part, **values} for part, values in found.latency_ms.items()]
    show_rows("from a window's last piece to its predictions", list(rows[0]), rows)
    pace = "as fast as it can" if found.speed is None else f"at {found.speed:g} times real time"
    moved = "" if found.window_ns == found.step_ns else f", {found.step_ns / 1e6:g} ms apart"
    times = found.recording_s / found.wall_s
    print(
        f"session    {found.session}, {found.recording_s:.1f} s of {found.split} time in {found.wall_s:.1f} s, {pace}"
    )
    print(f"windows    {found.n_windows} of {found.window_ns / 1e6:g} ms{moved}; {found.n_spikes} spikes")
    for task, apart in found.apart.items():
        print(f"offline    {task}: live differs by at most {apart:.1e} of the largest value")
    print(f"behind     {found.n_behind} of {found.n_windows} windows came after the next was complete ({times:.1f}x)")
