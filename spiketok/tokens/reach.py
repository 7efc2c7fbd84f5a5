"""How far windows reach beyond their ends: for spikes, by their scheme, and for what their behaviours were made of."""

from __future__ import annotations

from spiketok.errors import UnknownNameError
from spiketok.recording.leakage import FAR_NS, Reach, stated_reach_ns
from spiketok.recording.nouns import Session
from spiketok.tokens.schemes import Scheme
from spiketok.tokens.schemes.behaviour import REACH_PERIODS, takes_line


def scheme_reach(scheme: Scheme, lag_ns: int = 0) -> Reach:
    """How far a window's tokens reach for spikes beyond the window.

    Args:
        lag_ns: by how much spikes are taken earlier than the behaviour that they stand beside; later, if negative.
    """
    return Reach.of(f"{scheme.name} tokens", scheme.lookback_ns + lag_ns, scheme.lookahead_ns - lag_ns)


def signal_reach(name: str, stated_ns: tuple[int, int], period_ns: int, bin_ns: int) -> Reach:
    """How far the samples lie that a behaviour in a window was made of.

    Args:
        stated_ns: back and ahead, by the session's processing. period_ns: of its samples.
        bin_ns: the bins on which it is laid; 1 where it stays as sampled.
    """
    back, ahead = stated_ns
    if bin_ns > 1 and takes_line(period_ns, bin_ns):  # a bin has its value from a line between neighbours
        far_ns = int(REACH_PERIODS * period_ns)
        back, ahead = back + max(far_ns - bin_ns // 2, 0), ahead + max(far_ns - (bin_ns - bin_ns // 2), 0)
    return Reach.of(f"'{name}'", back, ahead)


def windows_reach(session: Session, scheme: Scheme | None = None, target: str | None = None, lag_ns: int = 0) -> Reach:
    """How far windows of a session reach beyond their ends.

    Args:
        scheme: of their tokens; None: spikes as they are. target: the behaviour that is decoded.
        lag_ns: as of :func:`scheme_reach`.

    Raises:
        UnknownNameError: the session has no such behaviour.
    """
    reach = Reach.of("lag", lag_ns, -lag_ns) if scheme is None else scheme_reach(scheme, lag_ns)
    if scheme is not None and scheme.whole_session:
        reach |= Reach.of(f"{scheme.name} tokens of the whole session", FAR_NS, FAR_NS)
    if target is not None and target not in session.behaviours:
        raise UnknownNameError("behaviour", target, session.behaviours, session.id)
    read = scheme.signals_read if scheme is not None else ()
    bin_ns = scheme.grid_ns if scheme is not None else 1
    for name in dict.fromkeys([*([] if target is None else [target]), *read]):
        if name in session.behaviours:
            period_ns = session.behaviours[name].period_ns
            reach |= signal_reach(name, stated_reach_ns(session.info, name), period_ns, bin_ns)
    return reach
