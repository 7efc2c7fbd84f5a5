"""What a transfer report says in lines: why cells are empty, what was chosen, what differs, the calibration."""

from __future__ import annotations

from spiketok.evaluation.results import ADAPTED, CALIBRATION_KINDS, CALIBRATION_OF, MIXED, Cell, TransferResult
from spiketok.training.sampling import dropped_words, listing
from spiketok.training.sessions import stand_in_line
from spiketok.training.tasks.base import reason_lines


def remarks(result: TransferResult) -> list[str]:
    """Why cells are empty, each reason once with its sessions, and what the calibration was."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for cell in result.cells:
        if cell.score is None:
            named = reasons.setdefault((cell.protocol, cell.reason), [])
            named += [cell.session] if cell.session not in named else []
    lines = [f"{protocol} is empty for {', '.join(ids)}: {why}" for (protocol, why), ids in reasons.items()]
    lines += reason_lines({c.session: c.score for c in result.cells if c.score is not None and "reasons" in c.score})
    if not result.run.finished:
        lines.append(f"the run is not finished: {result.run.step} of {result.run.total_steps} steps")
    for facts in result.sessions:
        parts = {part: dropped_words(reasons) for part, reasons in facts.dropped.items()}
        words = "; ".join(f"{words} of {part}" for part, words in parts.items() if words)
        if words:
            lines.append(f"{facts.session.id}: no window uses {words} (windows reach {facts.reach})")
    stand_in = stand_in_line([f.session.id for f in result.sessions if f.valid_is_test], named_tasks(result))
    lines += [stand_in] if stand_in else []
    lines += [told.line for told in result.findings]
    lines += result.stress.lines() if result.stress is not None else []
    lines += [line for cell in result.cells for line in chosen_lines(cell)]
    lines += [line for test in result.paired for line in paired_lines(test)]
    shows = {kind: [p for p in result.protocols if CALIBRATION_OF[p] == kind] for kind in CALIBRATION_KINDS}
    seen = "; ".join(f"{kind} for {', '.join(names)}" for kind, names in shows.items() if names)
    lines.append(
        f"calibration: {calibration_words(result)} of each session's training time"
        f"{f', {seen}' if seen else ''}; sd: over sessions, of the first metric"
    )
    return list(dict.fromkeys(lines))  # draws of one session say some alike


def calibration_words(result: TransferResult) -> str:
    """How the calibration lies in a session's training time."""
    length, times = f"{result.calibration_s:g} s", f", drawn {result.repeats} times" if result.repeats > 1 else ""
    words = {
        "first": f"the first {length}",
        "random": f"{length} from a random place{times}",
        "spread": f"{length} in pieces spread{times}",
    }
    return words[result.calibration]


def chosen_lines(cell: Cell) -> list[str]:
    """What the blocks of a calibration chose, of a cell of ``adapted`` or of its mixture."""
    if cell.how is None or cell.score is None:
        return []
    where = f"{cell.session}{f' (draw {cell.repeat + 1})' if cell.repeat else ''}, {cell.task}"
    if cell.protocol == MIXED:
        return [f"{MIXED} of {where}: weight {cell.how['weight']:.2f} of the model"]
    if cell.protocol != ADAPTED:
        return []
    how = cell.how
    start = f"begins at {'the map' if how['start'] == 'map' else how['start']}"
    if not how["blocks"]:
        return [f"{ADAPTED} of {where}: {start}, and stays: no blocks of the calibration hold a window each"]
    tried = f"{how['blocks']} blocks, error {_number(how['start_error'])} at the start"
    if how["steps"]:
        way = "" if how["share"] == 1 else f" and {how['share']:g} of the way"
        chosen = f"{how['candidate']}, {how['steps']} steps{way}"
        return [f"{ADAPTED} of {where}: {start}, {chosen} ({tried}, {_number(how['error'])})"]
    if how["narrow"]:
        still = f"{', '.join(how['narrow'])} hardly varies in the calibration, so blocks cannot judge"
        return [f"{ADAPTED} of {where}: {start}, and stays: {still}"]
    others = [e for points in how["errors"].values() for steps, _, e in points if steps and e is not None]
    no_less = f", none less by enough (least {min(others):.3f})" if others else ""
    return [f"{ADAPTED} of {where}: {start}, 0 steps ({tried}{no_less})"]


def _number(error: float | None) -> str:
    return "that is none" if error is None else f"{error:.3f}"


def paired_lines(test: dict[str, object]) -> list[str]:
    """A test between two rows, where there is one."""
    if test["p"] is None:
        return []
    what = f"{test['row']} - {test['against']}: {test['difference']:+.3f} {test['metric']} of {test['task']}"
    return [f"{what}, {test['test']} over {test['n']} {test['pairs']}: p = {test['p']:.2g}"]


def named_tasks(result: TransferResult) -> str:
    return listing([task.name for task in result.tasks])
