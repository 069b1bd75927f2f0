"""Figures of the chapter on what the rate measures."""

from __future__ import annotations

from selfsim.figures.rates import SET_TITLES
from selfsim.statistics.synthetic import KNOWN_DIMENSIONS


def test_every_set_of_known_dimension_has_a_title():
    assert set(KNOWN_DIMENSIONS) <= set(SET_TITLES)
    assert len(set(SET_TITLES.values())) == len(SET_TITLES)
