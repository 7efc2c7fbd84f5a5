"""Counts of K neighbouring units in one bin: the tokens of NDT2 and NDT3.

NDT2: Ye et al., NeurIPS 2023, github.com/joel99/context_general_bci. NDT3: Ye et al., bioRxiv 2025.02.02.634313,
github.com/joel99/ndt3. Both use 32 channels, bins of 20 ms and counts of at most 20; 8 and 128 are their ablations.

Order ``time-major`` is NDT2's: bin by bin, in each bin patch by patch. Order ``ndt3`` puts behaviour between the spikes
as NDT3 does: sorted by ``time * n_space + space``, where each kind of token has positions of its own (``reserved``: one
for the null token, 17 constraints, 10 patches, one return, 17 covariates, in this order). Each dimension of a covariate
is a token in each bin; a return is one in each bin; a constraint (three numbers for one dimension: active assistance,
passive assistance, brain control) is a token only in the window's first bin and where it changes.

Unusual here:
- Slots that hold nobody say so: ``unit`` is -1 there, and ``n_real`` counts the others. The reference pads batches with
  the value 5, a legal count, and gives the table of count embeddings ``padding_idx=5``: a true count of 5 embeds to
  zeros there and is never trained. Here padding is 0 and never has to be told from a count.
- A dropped unit leaves its slot empty (count 0, ``unit`` -1) and does not count in ``n_real``; its patch stays.
- Behaviour that is not valid in a bin is still a token, with value 0 and ``observed`` 0.
- Patches of a session whose groups (arrays) mix their rows in the unit table: groups come in the order in which they
  first appear, and units of a group in their own order.

Differs from the reference: tokens of one bin and one kind stand by position, where its sort is not stable; the sequence
is not shifted right by one and gets no null token, which is a model's to do (position 0 is kept free for it); a session
that needs more positions than are reserved is refused instead of running into the next kind's; 46 positions are used of
its 48, which changes no order; constraints and returns are laid on bins as every behaviour is (``signal_on_bins``), so
that one that steps between samples further apart than half a bin moves along a line, a token in each bin: sample those
faster than that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar, NoReturn

import numpy as np

from spiketok.errors import NotServedError, UsageError
from spiketok.recording.nouns import Intervals, Ragged, Session, SessionInfo, Spikes, UnitTable
from spiketok.tokens.bounds import require_columns, require_shape, require_within
from spiketok.tokens.schemes.base import (
    ALL_KEPT,
    Baked,
    Columns,
    ColumnSpec,
    Scheme,
    Tokens,
    Windows,
    check_cut,
    freeze,
    grid_rows,
    require_bins,
    segment_columns,
    segment_plan,
    spikes_outside,
    unit_rows,
)
from spiketok.tokens.schemes.behaviour import signal_on_bins
from spiketok.tokens.schemes.bins import count_bins, observed_bins

ORDERS = ("time-major", "ndt3")
KINDS = ("null", "constraint", "spikes", "return", "covariate")  # the column ``kind``, and the order inside a bin
PER_CONSTRAINT = 3
UINT8, UINT16, INT32 = np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.int32)
INT64, FLOAT32 = np.dtype(np.int64), np.dtype(np.float32)


@dataclass(frozen=True)
class Patch(Scheme):
    """Counts of ``patch_size`` units in one bin of ``bin_ns``, and with order ``ndt3`` the behaviour between them.

    Columns, T bins of all segments (``segment.row`` counts bins), P patches, K slots: ``patch`` uint8 ``[T * P, K]``,
    ``observed`` uint8 ``[T]``, ``unit.slot`` int32 ``[N]`` (unit n is in slot ``unit.slot[n] % K`` of patch
    ``unit.slot[n] // K``), ``n_real`` uint16 ``[P]`` (units in each patch), and ``unit_observed`` uint8 ``[T * P, K]``
    where the session's units were not all recorded at the same times. With ``ndt3``, as far as they are asked for:
    ``covariate.value`` float32 and ``covariate.valid`` uint8 ``[T, D]``; ``return.value`` and ``return.valid``
    ``[T, 1]``; ``constraint.value`` float32 ``[T, C, 3]``, ``constraint.valid`` uint8 ``[T]``, ``constraint.change``
    uint8 ``[T, C]`` (it differs from the bin before, in value or in being valid).

    A cut gives ``patch`` uint8 ``[K]``, ``unit`` int32 ``[K]`` (the row of each slot's unit, or its ``unit_row``; -1
    where there is none or it is dropped), ``time`` int32 (bin in the window), ``space`` int32 (the patch; with ``ndt3``
    the position of the token's kind), ``n_real`` uint16, ``observed`` uint8 and perhaps ``unit_observed`` uint8
    ``[K]``. With ``ndt3`` also ``kind`` uint8 (1 constraint, 2 spikes, 3 return, 4 covariate), ``value`` float32 of a
    return or covariate, and ``constraint`` float32 ``[3]``. Lost are time within the bin and counts above
    ``max_count``, which ``lost["clipped"]`` counts.

    Args:
        group_by: a column of the unit table, as ``"group"``: its groups are padded apart, so that no patch has units
            of two arrays. Empty: patches run over all units.
        covariates: names of behaviours; each component is a dimension. constraints: the name of a behaviour with three
            components for each dimension. returns: the name of a behaviour with one component.
        reserved: positions of null, constraints, patches, return and covariates.

    >>> from spiketok.tokens.schemes import Patch
    >>> Patch(patch_size=128, group_by="group").n_space
    46
    """

    bin_ns: int = 20_000_000
    patch_size: int = 32
    group_by: str = ""
    max_count: int = 20
    order: str = "time-major"
    covariates: tuple[str, ...] = ()
    constraints: str = ""
    returns: str = ""
    reserved: tuple[int, ...] = (1, 17, 10, 1, 17)

    name: ClassVar[str] = "patch"
    version: ClassVar[int] = 1
    readers: ClassVar[tuple[str, ...]] = ("NDT2", "NDT3")
    token: ClassVar[str] = "K units in one bin"
    keeps: ClassVar[str] = "every spike's bin and unit"
    loses: ClassVar[str] = "time within the bin; counts above max_count (counted)"

    def __post_init__(self) -> None:
        for key in ("covariates", "reserved"):  # JSON has lists
            if isinstance(getattr(self, key), list):
                object.__setattr__(self, key, tuple(getattr(self, key)))
        for key, most in (("bin_ns", 2**62), ("patch_size", 65_535), ("max_count", 255)):
            value = getattr(self, key)
            if type(value) is not int or not 1 <= value <= most:
                self._refuse_field(key, f"a whole number from 1 to {most}")
        for key in ("group_by", "constraints", "returns"):
            if not isinstance(getattr(self, key), str):
                self._refuse_field(key, "a name, or empty")
        if self.order not in ORDERS:
            self._refuse_field("order", f"one of {', '.join(ORDERS)}")
        names = self.covariates
        if not isinstance(names, tuple) or not all(isinstance(n, str) and n for n in names):
            self._refuse_field("covariates", "a list of names")
        if len(set(names)) < len(names):
            self._refuse_field("covariates", "names that differ")
        room = self.reserved
        if not isinstance(room, tuple) or len(room) != len(KINDS) or not all(type(r) is int and r >= 0 for r in room):
            self._refuse_field("reserved", f"{len(KINDS)} whole numbers, for {', '.join(KINDS)}")
        if self.order == "time-major" and (self.covariates or self.constraints or self.returns):
            message = "patch: behaviour as tokens (covariates, constraints, returns) needs order='ndt3'"
            raise UsageError(message)

    def _refuse_field(self, key: str, wanted: str) -> NoReturn:
        message = f"patch: {key} is {getattr(self, key)!r}, must be {wanted}"
        raise UsageError(message)

    @property
    def grid_ns(self) -> int:
        return self.bin_ns

    @property
    def signals_read(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for name in (*self.covariates, self.constraints, self.returns) if name))

    @property
    def n_space(self) -> int:
        """Positions of a bin's tokens with order ``ndt3``."""
        return sum(self.reserved)

    @property
    def first_space(self) -> tuple[int, ...]:
        """The first position of each of the ``KINDS``."""
        return (0, *accumulate(self.reserved[:-1]))

    # ---- baking -----------------------------------------------------------------------------------------------------

    def plan(self, info: SessionInfo, segments: Intervals) -> dict[str, ColumnSpec]:
        """Of a session's groups the summary knows nothing: as many patches as units are planned for where they pad."""
        n_constraints, n_covariates = self._check_behaviour(info.id, _components(info.signals))
        n_patches = -(-info.n_units // self.patch_size)
        self._check_room(info.id, "patches", n_patches, 2)
        if self.group_by:
            n_patches = info.n_units
        rows = int(grid_rows(segments.start_ns, segments.stop_ns, self.bin_ns)[-1])
        plan = {
            "patch": ColumnSpec(UINT8, (self.patch_size,), rows * n_patches),
            "observed": ColumnSpec(UINT8, (), rows),
            "unit_observed": ColumnSpec(UINT8, (self.patch_size,), rows * n_patches),
            "unit.slot": ColumnSpec(INT32, (), info.n_units),
            "n_real": ColumnSpec(UINT16, (), n_patches),
            **segment_plan(segments),
        }
        if self.constraints:
            plan["constraint.value"] = ColumnSpec(FLOAT32, (n_constraints, PER_CONSTRAINT), rows)
            plan["constraint.valid"] = ColumnSpec(UINT8, (), rows)
            plan["constraint.change"] = ColumnSpec(UINT8, (n_constraints,), rows)
        if self.returns:
            plan["return.value"] = ColumnSpec(FLOAT32, (1,), rows)
            plan["return.valid"] = ColumnSpec(UINT8, (1,), rows)
        if self.covariates:
            plan["covariate.value"] = ColumnSpec(FLOAT32, (n_covariates,), rows)
            plan["covariate.valid"] = ColumnSpec(UINT8, (n_covariates,), rows)
        return plan

    def _check_behaviour(self, session_id: str, components: Mapping[str, int]) -> tuple[int, int]:
        """Constraints and dimensions of covariates.

        Raises:
            NotServedError: a behaviour is not there, has other components than it must have, or finds no position.
        """
        for name in (*self.covariates, self.constraints, self.returns):
            if name and name not in components:
                has = f"it has {', '.join(sorted(components))}" if components else "it has none"
                message = f"{session_id} has no behaviour '{name}': {has}"
                raise NotServedError(message)
        if self.returns and components[self.returns] != 1:
            message = (
                f"{session_id} has no return in '{self.returns}': {components[self.returns]} components, must be 1"
            )
            raise NotServedError(message)
        size = components[self.constraints] if self.constraints else 0
        if size % PER_CONSTRAINT:
            message = f"{session_id} has no constraints in '{self.constraints}': {size} components, must be 3 each"
            raise NotServedError(message)
        n_constraints, n_covariates = size // PER_CONSTRAINT, sum(components[name] for name in self.covariates)
        self._check_room(session_id, "constraints", n_constraints, 1)
        self._check_room(session_id, "returns", int(bool(self.returns)), 3)
        self._check_room(session_id, "covariates", n_covariates, 4)
        return n_constraints, n_covariates

    def _check_room(self, session_id: str, what: str, wanted: int, kind: int) -> None:
        if self.order == "ndt3" and wanted > self.reserved[kind]:
            message = f"{session_id} has no room for {wanted} {what}: 'reserved' has {self.reserved[kind]} positions"
            raise NotServedError(message)

    def bake(self, session: Session, segments: Intervals) -> Baked:
        from spiketok.tokens.schemes.kernels import patches as kernels

        self._check_behaviour(session.id, {name: len(s.components) for name, s in session.signals.items()})
        slot, n_real = self._slots(session.id, session.units)
        self._check_room(session.id, "patches", len(n_real), 2)
        counts, row, saturated = count_bins(session, segments, self.bin_ns)
        flags = observed_bins(session, segments, row, self.bin_ns)
        columns = {"observed": flags["observed"], "unit.slot": slot.astype(np.int32), "n_real": n_real}
        run = _runs(slot)

        def laid(by_unit: np.ndarray, most: int) -> tuple[np.ndarray, int]:
            flat = np.empty((len(by_unit), len(n_real) * self.patch_size), np.uint8)
            above = kernels.lay_patches(by_unit, *run, np.uint8(most), flat)
            return flat.reshape(-1, self.patch_size), above

        columns["patch"], clipped = laid(counts, self.max_count)
        if "unit_observed" in flags:
            columns["unit_observed"], _ = laid(flags["unit_observed"], 1)
        columns |= self._behaviour_columns(session, segments) | segment_columns(segments, row)
        lost = {"outside_segments": spikes_outside(session.spikes, segments), "clipped": saturated + int(clipped)}
        return Baked(freeze(columns), lost)

    def _slots(self, session_id: str, units: UnitTable) -> tuple[np.ndarray, np.ndarray]:
        """int64 ``[N]``, where each unit stands among the P * K slots; uint16 ``[P]``, the units in each patch."""
        slot, n_real, size = np.empty(len(units), np.int64), [], self.patch_size
        for rows in self._groups(session_id, units):
            slot[rows] = len(n_real) * size + np.arange(len(rows))
            n_real += [min(size, len(rows) - k) for k in range(0, len(rows), size)]
        return slot, np.array(n_real, np.uint16)

    def _groups(self, session_id: str, units: UnitTable) -> list[np.ndarray]:
        """The rows of each group, in the order in which the groups first appear."""
        if not self.group_by:
            return [np.arange(len(units))]
        column = units.columns.get(self.group_by)
        if column is None or isinstance(column, Ragged):
            plain = sorted(name for name, c in units.columns.items() if not isinstance(c, Ragged))
            has = f"it has {', '.join(plain)}" if plain else "it has none"
            message = (
                f"{session_id} has no plain unit column '{self.group_by}' to group by: {has}; --set group_by= takes"
                " all units as one group (of a model: --set model.group_by=)"
            )
            raise NotServedError(message)
        rows: dict[str, list[int]] = {}
        for n, value in enumerate(np.asarray(column).tolist()):
            rows.setdefault(str(value), []).append(n)
        return [np.array(own) for own in rows.values()]

    def _behaviour_columns(self, session: Session, segments: Intervals) -> dict[str, np.ndarray]:
        columns = {}
        if self.constraints:
            value, valid = signal_on_bins(session.signals[self.constraints], segments, self.bin_ns)
            value = value.reshape(len(value), value.shape[1] // PER_CONSTRAINT, PER_CONSTRAINT)
            change = np.ones(value.shape[:2], np.uint8)
            change[1:] = (value[1:] != value[:-1]).any(axis=2) | (valid[1:] != valid[:-1])[:, None]
            columns |= {"constraint.value": value, "constraint.valid": valid, "constraint.change": change}
        if self.returns:
            value, valid = signal_on_bins(session.signals[self.returns], segments, self.bin_ns)
            columns |= {"return.value": value, "return.valid": valid[:, None]}
        if self.covariates:
            laid = [signal_on_bins(session.signals[name], segments, self.bin_ns) for name in self.covariates]
            columns["covariate.value"] = np.concatenate([value for value, _ in laid], axis=1)
            flags = [np.repeat(valid[:, None], value.shape[1], axis=1) for value, valid in laid]
            columns["covariate.valid"] = np.concatenate(flags, axis=1)
        return {name: np.ascontiguousarray(column) for name, column in columns.items()}

    def check(self, columns: Columns) -> None:
        wanted = {"patch": (UINT8, 2), "observed": (UINT8, 1), "unit.slot": (INT32, 1), "n_real": (UINT16, 1)}
        if self.constraints:
            wanted |= {"constraint.value": (FLOAT32, 3), "constraint.valid": (UINT8, 1)}
            wanted |= {"constraint.change": (UINT8, 2)}
        for name, there in (("return", self.returns), ("covariate", self.covariates)):
            if there:
                wanted |= {f"{name}.value": (FLOAT32, 2), f"{name}.valid": (UINT8, 2)}
        require_columns(columns, wanted, {"unit_observed": (UINT8, 2)})
        n_rows, n_patches = len(columns["observed"]), len(columns["n_real"])
        require_shape(columns, (n_rows * n_patches, self.patch_size), ["patch", "unit_observed"])
        require_within(columns, "unit.slot", 0, n_patches * self.patch_size)
        require_bins(columns, self.bin_ns, n_rows)
        if self.constraints:
            n_constraints = columns["constraint.change"].shape[1]
            require_shape(columns, (n_rows,), ["constraint.valid"])
            require_shape(columns, (n_rows, n_constraints), ["constraint.change"])
            require_shape(columns, (n_rows, n_constraints, PER_CONSTRAINT), ["constraint.value"])
            require_within(columns, "constraint.change", 0, 2)
        if self.returns:
            require_shape(columns, (n_rows, 1), ["return.value", "return.valid"])
        if self.covariates:
            n_covariates = columns["covariate.value"].shape[1]
            require_shape(columns, (n_rows, n_covariates), ["covariate.value", "covariate.valid"])

    def spikes_held(self, columns: Columns) -> int:
        return int(columns["patch"].sum(dtype=np.int64))

    # ---- cutting ----------------------------------------------------------------------------------------------------

    def lengths(self, columns: Columns, windows: Windows, keep: np.ndarray | None = None) -> np.ndarray:
        check_cut(self, columns, windows, keep, len(columns["unit.slot"]))
        n_bins = windows.length_ns // self.bin_ns
        length = np.full(len(windows), n_bins * self._per_bin(columns), np.int64)
        if self.constraints:
            from spiketok.tokens.schemes.kernels import patches as kernels

            kernels.count_changes(columns["constraint.change"], self._first(columns, windows), n_bins, length)
        return length

    @staticmethod
    def _per_bin(columns: Columns) -> int:
        """Tokens that every bin has."""
        behaviour = sum(columns[n].shape[1] for n in ("return.value", "covariate.value") if n in columns)
        return len(columns["n_real"]) + behaviour

    def _first(self, columns: Columns, windows: Windows) -> np.ndarray:
        """int64 ``[B]``: each window's first bin."""
        since = windows.start_ns - columns["segment.start_ns"][windows.segment]
        return columns["segment.row"][windows.segment] + since // self.bin_ns

    def outputs(self, columns: Columns, length_ns: int) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
        slots = (self.patch_size,)
        outputs = {
            "patch": (UINT8, slots),
            "unit": (INT32, slots),
            "time": (INT32, ()),
            "space": (INT32, ()),
            "n_real": (UINT16, ()),
            "observed": (UINT8, ()),
        }
        if "unit_observed" in columns:
            outputs["unit_observed"] = (UINT8, slots)
        if self.order == "ndt3":
            outputs |= {"kind": (UINT8, ()), "value": (FLOAT32, ())}
            if self.constraints:
                outputs["constraint"] = (FLOAT32, (PER_CONSTRAINT,))
        return outputs

    def fill(
        self,
        columns: Columns,
        windows: Windows,
        row: np.ndarray,
        out: Mapping[str, np.ndarray],
        keep: np.ndarray | None = None,
        unit_row: np.ndarray | None = None,
        length: np.ndarray | None = None,
    ) -> None:
        from spiketok.tokens.schemes.kernels import patches as kernels

        n_units, n_patches = len(columns["unit.slot"]), len(columns["n_real"])
        unit_row = unit_rows(unit_row, n_units)
        first, n_rows = self._first(columns, windows), len(columns["observed"])
        slot_unit = np.full(n_patches * self.patch_size, -1, np.int32)
        slot_unit[columns["unit.slot"]] = np.arange(n_units)
        nothing = _no_rows(self.patch_size)
        change = columns.get("constraint.change", np.zeros((n_rows, 0), np.uint8))
        place = np.empty((len(windows), windows.length_ns // self.bin_ns), np.int64)
        kernels.place_bins(change, first, self._per_bin(columns), row, place)
        spaces = np.array(self.first_space, np.int64)
        unit_observed = out.get("unit_observed", nothing["unit_observed"])
        kernels.fill_patches(
            columns["patch"],
            columns["observed"],
            columns.get("unit_observed", nothing["unit_observed"]),
            slot_unit.reshape(n_patches, self.patch_size),
            first,
            ALL_KEPT if keep is None else keep,
            unit_row,
            int(spaces[kernels.SPIKES]) if self.order == "ndt3" else 0,
            place,
            out["patch"],
            out["unit"],
            out["time"],
            out["space"],
            out["n_real"],
            out["observed"],
            unit_observed,
        )
        if self.order == "time-major":
            return
        no_values, no_flags = np.zeros((n_rows, 0), np.float32), np.zeros((n_rows, 0), np.uint8)
        kernels.fill_behaviour(
            columns.get("constraint.value", np.zeros((n_rows, 0, PER_CONSTRAINT), np.float32)),
            columns.get("constraint.valid", np.zeros(n_rows, np.uint8)),
            change,
            columns.get("return.value", no_values),
            columns.get("return.valid", no_flags),
            columns.get("covariate.value", no_values),
            columns.get("covariate.valid", no_flags),
            first,
            n_patches,
            spaces,
            place,
            out["kind"],
            out["time"],
            out["space"],
            out["observed"],
            out["value"],
            out.get("constraint", nothing["constraint"]),
            out["patch"],
            out["unit"],
            out["n_real"],
            unit_observed,
        )

    # ---- back -------------------------------------------------------------------------------------------------------

    def empty(self, tokens: Tokens) -> np.ndarray:
        return ~tokens.columns["patch"].any(axis=1)

    def detokenize(self, tokens: Tokens, windows: Windows) -> list[Spikes]:
        """As many spikes as were counted and not clipped, all at their bin's middle."""
        spikes = []
        for b in range(len(windows)):
            rows = slice(tokens.offset[b], tokens.offset[b + 1])
            patch, unit, time = (tokens.columns[k][rows] for k in ("patch", "unit", "time"))
            index, slot = np.nonzero(patch)
            bins, who, times = time[index].astype(np.int64), unit[index, slot], patch[index, slot]
            order = np.lexsort([who, bins])
            time_ns = windows.start_ns[b] + bins[order] * self.bin_ns + self.bin_ns // 2
            spikes.append(Spikes(np.repeat(time_ns, times[order]), np.repeat(who[order], times[order])))
        return spikes


def _components(signals: Mapping[str, tuple[tuple[str, ...], str]]) -> dict[str, int]:
    return {name: len(components) for name, (components, _) in signals.items()}


def _no_rows(patch_size: int) -> dict[str, np.ndarray]:
    """Columns that a cut does not have."""
    return {
        "unit_observed": np.zeros((0, patch_size), np.uint8),
        "constraint": np.zeros((0, PER_CONSTRAINT), np.float32),
    }


def _runs(slot: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """int64 ``[R]`` three times, by slot: first unit, first slot and length of each stretch side by side."""
    unit = np.argsort(slot)
    breaks = (np.diff(unit) != 1) | (np.diff(slot[unit]) != 1)
    first = np.flatnonzero(np.concatenate([[True], breaks])[: len(slot)])
    return unit[first], slot[unit[first]], np.diff(np.append(first, len(slot)))
