"""The region of each unit, read from a vector of it as BrainWideBench reads it (its suite TS3, ``unit_cosmos``).

A logistic regression of ten regions (``REGIONS``) on standardised vectors, classes weighed alike, C = 1; it is fitted
on units of some sessions and says a probability a region of units of others. Beside the units by themselves stands the
mean over each unit's neighbours on its probe (``mean_of_neighbours``). Macro-F1 is over all ten regions: one that no
unit has counts 0.

What is unusual:

- which units count follows from columns of quality, where a session has them (:func:`chosen_units`); of other files
  than the benchmark's all units of one of the ten regions are taken;
- a region that no fitted unit has gets a probability of 0, and is told; the benchmark's code stops there.

Source: brainbench-org/test-ibl-bwb (f8b0a85; src/ts3/probes/linear.py).

Shape letters: N units, D width, R regions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from spiketok.errors import DataError, require
from spiketok.evaluation.bwb_export import Build
from spiketok.evaluation.embedding import Compared, require_column
from spiketok.evaluation.scoring.bwb_files import REGIONS, About, write_regions
from spiketok.evaluation.scoring.bwb_units import mean_of_neighbours
from spiketok.recording.intervals import holds
from spiketok.recording.nouns import Intervals, Session, Spikes
from spiketok.sources.catalogue.bwb.windows import eid_of, isi_histograms, scored_units

TASK = "ts3-unit_cosmos"
REGION_COLUMN = "region_cosmos"
PROBE_COLUMN, DEPTH_COLUMN = "probe_id", "depths"  # of the units, where neighbours are told
QUALITY = {"qc_neural", "qc_neural_alignment", "label", "firing_rate"}  # columns of the benchmark's units
MOST_STEPS = 1000


@dataclass(frozen=True, eq=False)
class ProbedRegions:
    """What one feature of the units tells of the regions of those that are scored.

    Args:
        unit_id: str ``[N]``, ``<recording>/<unit>``. word: str ``[N]``. probability: ``[N, R]``.
        averaged: the mean over neighbours, ``[N, R]``; None where the units name no probe and depth.
        lacking: the regions that no unit has that was fitted on, whose probability is 0.
    """

    unit_id: np.ndarray
    word: np.ndarray
    probability: np.ndarray
    averaged: np.ndarray | None
    lacking: tuple[str, ...] = ()


def probe_regions(
    compared: Sequence[Compared], stored: Sequence[Session], tested: Sequence[str], column: str
) -> dict[str, ProbedRegions]:
    """By feature, the regions of the units of some sessions, fitted on those of all others.

    Args:
        compared: sessions with their features. stored: the same, from the store. tested: ids of the sessions that are
            scored. column: of the regions.

    Raises:
        DataError: a session has no such column; no unit can be fitted on, or none scored.
    """
    require_column([of.info for of in compared], column)
    pairs = list(zip(compared, stored, strict=True))
    scored = [_Chosen.of(*pair, column) for pair in pairs if pair[0].info.id in set(tested)]
    fitted = [_Chosen.of(*pair, column) for pair in pairs if pair[0].info.id not in set(tested)]
    n_fit, n_scored = (sum(len(of.word) for of in part) for part in (fitted, scored))
    if not n_fit or not n_scored:
        message = (
            f"{n_fit} units of {len(fitted)} sessions to fit on and {n_scored} of {len(scored)} to score have one of "
            f"the ten regions in '{column}' ({', '.join(REGIONS)}), the quality that is asked, and a vector: --test "
            "GLOB says which sessions are scored"
        )
        raise DataError(message)
    fit_word, word = (np.concatenate([of.word for of in part]) for part in (fitted, scored))
    unit_id = np.concatenate([of.unit_id for of in scored])
    lacking = tuple(region for region in REGIONS if region not in set(fit_word.tolist()))
    found = {}
    for name in compared[0].features:
        x, others = (np.concatenate([of.features[name] for of in part]) for part in (fitted, scored))
        probability, averaged = region_probabilities(x, fit_word, others), None
        if all(of.depth_um is not None for of in scored):
            probe, depth_um = (np.concatenate([getattr(of, key) for of in scored]) for key in ("probe", "depth_um"))
            averaged = mean_of_neighbours(probability, depth_um, probe)
        found[name] = ProbedRegions(unit_id, word, probability, averaged, lacking)
    return found


def chosen_units(session: Session, column: str) -> np.ndarray:
    """bool ``[N]``: the units of a session whose region counts.

    Of the benchmark's files those that it scores (``scored_units``: quality, alignment, rate), of others all that have
    one of the ten regions.

    Args:
        column: of the regions.
    """
    kept = np.isin(np.asarray(session.units.columns[column]).astype(str), REGIONS)
    if session.units.columns.keys() >= QUALITY:
        good = np.zeros(len(kept), np.bool_)
        good[scored_units(session).row] = True
        kept &= good
    return kept


@dataclass(frozen=True, eq=False)
class _Chosen:
    """The units of a session whose region counts and that have a vector: names, regions, places, features."""

    unit_id: np.ndarray
    word: np.ndarray
    probe: np.ndarray | None
    depth_um: np.ndarray | None
    features: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, compared: Compared, session: Session, column: str) -> _Chosen:
        row = np.flatnonzero(chosen_units(session, column) & compared.seen)
        recording, columns = eid_of(session), session.units.columns
        probe = depth_um = None
        if {PROBE_COLUMN, DEPTH_COLUMN} <= columns.keys():
            words = np.asarray(columns[PROBE_COLUMN]).astype(str)[row].tolist()
            probe = np.array([f"{recording}/{word}" for word in words])  # no other session's
            depth_um = np.asarray(columns[DEPTH_COLUMN], np.float64)[row]
        return cls(
            np.array([f"{recording}/{unit}" for unit in session.units.id[row].tolist()]),
            np.asarray(columns[column]).astype(str)[row],
            probe,
            depth_um,
            {name: value[row] for name, value in compared.features.items()},
        )


def region_probabilities(x: np.ndarray, word: np.ndarray, others: np.ndarray) -> np.ndarray:
    """float64 ``[M, R]``: the probability of each region for other units, in the order of the ten.

    Args:
        x: ``[N, D]``, vectors of the units that are fitted on. word: str ``[N]``, their regions. others: ``[M, D]``.

    Raises:
        DataError: the units that are fitted on are of fewer than two regions.
    """
    linear = require("sklearn.linear_model", "train", "probing units")
    scale = require("sklearn.preprocessing", "train", "probing units").StandardScaler().fit(x)
    if len(set(word)) < 2:
        message = f"the {len(word)} units that are fitted on are of {len(set(word))} region: nothing can be told apart"
        raise DataError(message)
    fitted = linear.LogisticRegression(C=1.0, class_weight="balanced", solver="newton-cg", max_iter=MOST_STEPS)
    fitted.fit(scale.transform(x), word)
    found = np.zeros((len(others), len(REGIONS)))
    found[:, [REGIONS.index(region) for region in fitted.classes_]] = fitted.predict_proba(scale.transform(others))
    return found


def macro_f1(word: np.ndarray, probability: np.ndarray) -> float:
    """Macro-F1 over all ten regions of the likeliest region of each unit.

    Args:
        word: str ``[N]``, the regions. probability: ``[N, R]``.
    """
    f1_score = require("sklearn.metrics", "train", "probing units").f1_score
    said = np.array(REGIONS)[probability.argmax(1)]
    return float(f1_score(word, said, labels=list(REGIONS), average="macro", zero_division=0))


def rows_of(found: Mapping[str, ProbedRegions]) -> list[dict[str, object]]:
    """A row for units by themselves and one for the mean over neighbours: macro-F1 of each feature."""
    first, rows = next(iter(found.values())), []
    for units, of in (("single", lambda one: one.probability), ("multi", lambda one: one.averaged)):
        if of(first) is not None:
            scores = {name: macro_f1(one.word, of(one)) for name, one in found.items()}
            rows.append({"units": units, **scores, "n_scored": len(first.word)})
    return rows


def with_isi(
    compared: Sequence[Compared], stored: Sequence[Session], times: Sequence[Intervals] | None = None
) -> list[Compared]:
    """The sessions with the benchmark's histogram of intervals in place of the one that stands beside other probes.

    Args:
        times: of each session, the time of its vectors, where that is a part of it.
    """
    seen = stored if times is None else [_of_time(*pair) for pair in zip(stored, times, strict=True)]
    rows = [isi_histograms(session, np.arange(len(session.units))) for session in seen]
    return [replace(of, features={**of.features, "isi": isi}) for of, isi in zip(compared, rows, strict=True)]


def _of_time(session: Session, time: Intervals) -> Session:
    """The session with the spikes of some time alone."""
    inside = holds(time, session.spikes.time_ns)
    return replace(session, spikes=Spikes(session.spikes.time_ns[inside], session.spikes.unit[inside]))


def write_region_files(root: Path, label: str, seed: int, build: Build, probed: ProbedRegions) -> list[Path]:
    """Write the benchmark's files of regions: of the units by themselves, and of the mean over neighbours.

    They are two submissions, ``<label>_linear_single`` and ``<label>_linear_multi``.

    Args:
        root: the folder of predictions. seed: of the run. build: of the sessions that are scored.
    """
    written = []
    for units, probability in (("single", probed.probability), ("multi", probed.averaged)):
        if probability is not None:
            about = About(f"{label}_linear_{units}", TASK, seed, "", *build)
            written.append(write_regions(root, about, probed.unit_id.tolist(), probability))
    return written
