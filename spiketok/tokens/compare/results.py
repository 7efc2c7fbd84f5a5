"""What was measured: schemes on sessions, their means, and the table and the JSON of them."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from pathlib import Path

from spiketok.storage.files import atomic_file
from spiketok.tokens.compare.attention import ATTENTION, LATENTS, QUERIES, WIDTH, without_formula
from spiketok.tokens.schemes import Scheme, scheme_config


@dataclass(frozen=True)
class Measured:
    """One scheme on one session: ``reason`` says why there is nothing where the scheme cannot serve it."""

    session_id: str
    facts: dict[str, object]
    timing: dict[str, float]
    reason: str = ""


@dataclass(frozen=True)
class SchemeResult:
    """One scheme on all sessions."""

    scheme: Scheme
    sessions: list[Measured]

    @property
    def served(self) -> list[Measured]:
        return [m for m in self.sessions if not m.reason]

    def mean(self, name: str) -> float | None:
        """The mean over the sessions that have this fact or timing; None where none has."""
        values = [(m.facts | m.timing).get(name) for m in self.served]
        return statistics.fmean(v for v in values if v is not None) if any(v is not None for v in values) else None

    @property
    def lost(self) -> dict[str, int]:
        """Spikes that the bakes do not hold, by reason, over all sessions."""
        total: dict[str, int] = {}
        for measured in self.served:
            for reason, n in measured.facts["lost"].items():
                total[reason] = total.get(reason, 0) + n
        return {reason: n for reason, n in total.items() if n}

    @property
    def attention(self) -> dict[str, float]:
        """FLOPs of one layer's attention a second of recording, by reader; mean over the sessions."""
        readers = self.served[0].facts["attention_flops_per_s"] if self.served else {}
        return {r: statistics.fmean(m.facts["attention_flops_per_s"][r] for m in self.served) for r in readers}

    @property
    def unpaid(self) -> str:
        """What stands in place of attention where no reader pays any: ``"none"``, or that it is not known."""
        return "not known" if not self.attention and without_formula(self.scheme.readers) else "none"


MEANS = (
    "window_s",
    "tokens_per_s",
    "bytes_per_s",
    "empty_share",
    "timing_error_median_ms",
    "timing_error_p99_ms",
    "unmatched_share",
    "tokens_per_window",
    "tokens_per_unit",
    "tokens_per_spike",
)
TIMINGS = ("bake_spikes_per_s", "cut_windows_per_s")


@dataclass(frozen=True)
class Comparison:
    """All schemes on all sessions, in the order in which they were given."""

    window_ns: int
    n_windows: int
    seed: int
    results: list[SchemeResult]

    def rows(self) -> list[dict[str, object]]:
        """One row a scheme for a table; the mean over the sessions, spikes lost summed."""
        return [_row(result) for result in self.results]

    def to_json(self) -> dict[str, object]:
        """Everything; what is not the same on every machine and in every run is under ``timing`` alone."""
        return {
            "window_ns": self.window_ns,
            "n_windows": self.n_windows,
            "seed": self.seed,
            "attention": {"width": WIDTH, "latents": LATENTS, "queries": QUERIES}
            | {"formulas": {reader: a.formula for reader, a in ATTENTION.items()}},
            "schemes": [
                {
                    **scheme_config(result.scheme),
                    "mean": {name: result.mean(name) for name in MEANS},
                    "lost": result.lost,
                    "attention_flops_per_s": result.attention,
                    "timing": {name: result.mean(name) for name in TIMINGS},
                    "sessions": [
                        {"session": m.session_id, "not_served": m.reason}
                        if m.reason
                        else {"session": m.session_id, **m.facts, "timing": m.timing}
                        for m in result.sessions
                    ],
                }
                for result in self.results
            ],
        }

    def write_json(self, out: Path) -> None:
        with atomic_file(out) as path:
            path.write_text(json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n")


def _row(result: SchemeResult) -> dict[str, object]:
    refused = [m.reason for m in result.sessions if m.reason]
    share, error, late = (result.mean(n) for n in ("unmatched_share", "timing_error_median_ms", "timing_error_p99_ms"))
    attention = ", ".join(f"{reader} {short(f / 1e6)}" for reader, f in result.attention.items() if f)
    return {
        "scheme": result.scheme.name,
        "sessions": len(result.served),
        "window s": short(result.mean("window_s")),
        "tokens/s": short(result.mean("tokens_per_s")),
        "bytes/s": short(result.mean("bytes_per_s")),
        "empty %": short(times(result.mean("empty_share"), 100)),
        "spikes lost": ", ".join(f"{n} {why}" for why, n in result.lost.items()) or ("none" if result.served else "-"),
        "error ms, median": short(error),
        "p99": short(late),
        "unmatched %": short(times(share, 100)),
        "tokens/unit": short(result.mean("tokens_per_unit")),
        "tokens/spike": short(result.mean("tokens_per_spike")),
        "bake, M spikes/s": short(times(result.mean("bake_spikes_per_s"), 1e-6)),
        "cut, windows/s": short(result.mean("cut_windows_per_s")),
        "attention, MFLOP/s": attention or (result.unpaid if result.served else "-"),
        "not served": "; ".join(refused),
    }


def times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def short(value: float | None) -> str:
    """Three digits that a person reads at once.

    >>> [short(v) for v in (None, 0.0, 0.01234, 5.0, 1234.5, 98_765_432.0)]
    ['-', '0', '0.0123', '5', '1,230', '98.8 M']
    """
    if value is None:
        return "-"
    if abs(value) >= 1e6:
        scale, name = (1e9, "G") if abs(value) >= 1e9 else (1e6, "M")
        return f"{value / scale:.3g} {name}" if abs(value) < 1e12 else f"{value:.3g}"
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.0f}" if abs(rounded) >= 1000 else f"{rounded:.3g}"
