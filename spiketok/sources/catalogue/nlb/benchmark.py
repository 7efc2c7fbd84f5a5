"""How the seven sets are cut and scored: the numbers of nlb_tools 0.0.4 (``make_tensors.py``, ``PARAMS``)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Benchmark:
    """How one set is cut and scored.

    Args:
        behaviour: the decoding target: a signal, or columns of the trial table.
        lag_ms: so much later than the spikes the behaviour is taken; None for columns.
        align: the trial time that windows are laid around; window_ms: from, to.
        overlap, eval_overlap: False: a window ends where the next one begins.
        eval_span: trial times between which the evaluation's spikes are, at the window's end; empty: the window.
        conditions: trial columns whose combinations are the PSTH's conditions; empty: it has none.
        kernel_sd_ms: of the PSTH's Gaussian.
        decoders: a bool trial column: one decoder for each of its values.
        jitter_ms: windows are moved later by a random time below this and below 1500 ms minus ``tp``; 0: not.
        outliers: an int trial column: where it is 1, behaviour is nan and the trial no part of a PSTH.
        forward_ms: the length of the forward prediction after the window.
    """

    behaviour: str | tuple[str, ...]
    lag_ms: int | None
    align: str
    window_ms: tuple[int, int]
    overlap: bool = False
    eval_overlap: bool = False
    eval_span: tuple[str, ...] = ()
    conditions: tuple[str, ...] = ()
    kernel_sd_ms: int = 50
    decoders: str = ""
    jitter_ms: int = 0
    outliers: str = ""
    forward_ms: int = 200

    @property
    def segments(self) -> str:
        """The window as a rule of ``spiketok tokenize --segments``."""
        align = self.align.removesuffix("_time") if self.align == "start_time" else self.align
        return f"trials:{align},{-self.window_ms[0]},{self.window_ms[1]}"


def _maze(lag_ms: int, kernel_sd_ms: int) -> Benchmark:
    conditions = ("trial_type", "trial_version")
    return Benchmark(
        "hand_vel", lag_ms, "move_onset_time", (-250, 450), conditions=conditions, kernel_sd_ms=kernel_sd_ms
    )


BENCHMARKS = {
    "mc_maze": _maze(100, 70),
    "mc_maze_large": _maze(120, 50),
    "mc_maze_medium": _maze(120, 50),
    "mc_maze_small": _maze(120, 50),
    "mc_rtt": Benchmark("finger_vel", 140, "start_time", (0, 600), overlap=True, eval_overlap=True),
    "area2_bump": Benchmark(
        "hand_vel", -20, "move_onset_time", (-100, 500), eval_overlap=True,
        conditions=("cond_dir", "ctr_hold_bump"), kernel_sd_ms=40, decoders="ctr_hold_bump",
    ),
    "dmfc_rsg": Benchmark(
        ("is_eye", "theta", "is_short", "ts", "tp"), None, "go_time", (-1500, 0), overlap=True,
        eval_span=("set_time", "go_time"), conditions=("is_eye", "theta", "is_short", "ts"), kernel_sd_ms=70,
        jitter_ms=300, outliers="is_outlier",
    ),
}  # fmt: skip
