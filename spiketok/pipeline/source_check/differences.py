"""What a comparison notes: differences, each one sentence with both values, and how much was compared."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass
class Verification:
    """What was compared, and every difference as one sentence with both values."""

    differences: list[str] = field(default_factory=list)
    n_units: int = 0
    n_spikes: int = 0
    n_tables: int = 0
    n_intervals: int = 0
    n_columns: int = 0
    n_signals: int = 0
    n_samples: int = 0
    n_stimuli: int = 0

    def expect(self, what: str, stored: object, source: object) -> bool:
        """Note a difference where two values are not equal."""
        equal = stored == source
        if not equal:
            self.differences.append(f"{what}: {stored} in the session, {source} in the source")
        return bool(equal)

    def expect_array(self, what: str, stored: np.ndarray, source: np.ndarray) -> bool:
        """Note the first difference between two arrays; NaN equals NaN."""
        if stored.shape != source.shape:
            return self.expect(f"{what}, shape", stored.shape, source.shape)
        unequal = stored != source
        if stored.dtype.kind == "f" and source.dtype.kind == "f":
            unequal &= ~(np.isnan(stored) & np.isnan(source))
        wrong = np.argwhere(unequal)
        if not len(wrong):
            return True
        place = tuple(int(i) for i in wrong[0])
        label = ", ".join(str(i) for i in place)
        self.differences.append(
            f"{what}: {len(wrong)} of {stored.size} values differ, the first at {label}: "
            f"{stored[place]} in the session, {source[place]} in the source"
        )
        return False
