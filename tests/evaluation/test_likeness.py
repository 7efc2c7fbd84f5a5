"""Units of a new session that begin as the trained ones that they are like."""

from __future__ import annotations

import numpy as np

from spiketok.evaluation.likeness import fit_likeness, places_beside

RNG = np.random.default_rng(0)
NOISE = np.array([0.02, 0.02, 3.0, 0.02])  # the third number varies for one and the same unit more than between units
TRUE = {"a": RNG.normal(0, 1, (12, 4)), "b": RNG.normal(0, 1, (9, 4))}


def seen(true: np.ndarray, seed: int) -> np.ndarray:
    return true + NOISE * np.random.default_rng(seed).normal(0, 1, true.shape)


def learned():
    return fit_likeness({name: [seen(true, k) for k in range(6)] for name, true in TRUE.items()})


def test_units_are_found_again_in_the_session_that_they_are_of():
    likeness = learned()
    for best, name in enumerate(TRUE):
        order = np.random.default_rng(5).permutation(len(TRUE[name]))
        session, like = likeness.within(seen(TRUE[name][order], 50))
        assert session == best and like.tolist() == order.tolist()
    order = np.random.default_rng(6).permutation(21)
    pool = np.concatenate(list(TRUE.values()))
    assert likeness.among(seen(pool[order], 51)).tolist() == order.tolist()


def test_a_noisy_number_does_not_decide():
    """By the plain distance it does: the third number alone sets units apart."""
    noisy = seen(TRUE["a"], 52)
    assert learned().within(noisy)[1].tolist() == list(range(12))
    plain = np.square(noisy[:, None] - TRUE["a"]).sum(-1).argmin(1)
    assert (plain != np.arange(12)).sum() > 3


def test_more_units_than_there_are():
    likeness = learned()
    more = np.concatenate([seen(TRUE["b"], 53), RNG.normal(0, 1, (30, 4))])
    session, like = likeness.within(more)
    assert len(set(like[like >= 0])) == (like >= 0).sum() == len(TRUE[likeness.sessions[session]])
    among = likeness.among(more)
    assert among.min() >= 0 and len(set(among)) == 21  # each trained unit is taken, and some twice


def test_one_unit_and_a_number_that_never_changes():
    likeness = fit_likeness({"a": [np.ones((1, 3)), np.ones((1, 3))]})
    assert likeness.within(np.ones((2, 3)))[1].tolist() == [0, -1]
    assert likeness.among(np.ones((2, 3))).tolist() == [0, 0]


def test_who_is_like_nobody_goes_where_nobody_stood():
    places = np.array([0, 1, 4, 5])  # two arrays of two in patches of four slots
    found = places_beside(np.array([2, -1, 0, -1, 3, -1]), places)
    assert found.tolist() == [4, 2, 0, 3, 5, 6]
