"""The slow, readable twins: what the kernels must give, exactly. These functions are the specification.

Plain Python loops over whole numbers, no kernel, no search, no shared code with the package beyond its nouns. What they
return has the dtype that the package must have. One module a scheme, each with

- ``VARIANTS``: the settings of the scheme that every law is tested with, the default first;
- ``sessions()``: a strategy of sessions that the scheme can serve (optional; else ``strategies.sessions()``);
- ``dressed(session)``: the session with the columns and behaviours that the variants name (optional);
- ``window(scheme, session, segments, windows, b, keep, unit_row)``: the tokens of window b, each column as an array;
  ``keep`` is a list of N bools or None, ``unit_row`` a list of N rows or None;
- ``check_bake(scheme, session, segments, baked)``: asserts law 3 on the columns and on every entry of ``baked.lost``
  but ``outside_segments``, which the test of the law checks for all schemes.
"""

from __future__ import annotations

from tests.reference import (
    binned,
    calibration,
    event_pair,
    fine_time,
    fluorescence,
    frames,
    neuron,
    patch,
    per_spike,
    quantized,
)
from tests.reference.common import queries, seconds, signal_bin, usable

TWINS = {
    "binned": binned,
    "calibration": calibration,
    "fine-time": fine_time,
    "fluorescence": fluorescence,
    "frames": frames,
    "neuron": neuron,
    "patch": patch,
    "per-spike": per_spike,
    "quantized": quantized,
    "event-pair": event_pair,
}

__all__ = ["TWINS", "queries", "seconds", "signal_bin", "usable"]
