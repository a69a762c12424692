"""A screen from the configuration to the ledger: what it trains, and that a search behind it can go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flows.assembly import planned
from flows.config import validated
from flows.home import BadInput, Home
from genomes import cost
from search import Ledger
from strategies import Screened
from tests.flows.conftest import FAST, FEW, config


def screened(proxy: str, **changes: Any) -> Any:
    return config(name="screened", strategy={**FEW, "screen": {"proxy": proxy, "draws": 3}}, **changes)


def test_a_search_has_no_screen_unless_it_asks_for_one(tmp_path: Path) -> None:
    assert not isinstance(planned(config(), Home(tmp_path)).strategy, Screened)


def test_random_search_is_screened_from_its_first_candidate_on(tmp_path: Path) -> None:
    means = []
    for screen in ({}, {"proxy": "parameters", "draws": 5}):
        plan = planned(config(strategy={"kind": "random", "screen": screen}), Home(tmp_path))
        means.append(sum(cost(candidate.genome).parameters for candidate in plan.strategy.ask(8)) / 8)
    assert means[1] > 1.3 * means[0]


def test_a_screened_search_numbers_without_gaps_inherits_and_goes_on(prefect_server: None, home: Path) -> None:
    from flows.search import search

    search(screened("naswot"), home)
    result = search(screened("naswot", budget={"candidates": 9}), home)
    assert (result["evaluations"], result["failures"]) == (9, 0)
    with Ledger.read(home / "screened") as ledger:
        candidates, evaluations = ledger.candidates(), ledger.evaluations()
    assert sorted(candidates) == list(range(9))
    children = [candidate for candidate in candidates.values() if candidate.edits]
    assert children
    assert all(evaluations[child.number].certificates for child in children)


@pytest.mark.parametrize(("screen", "place"), [({"proxy": "tarot"}, "screen.proxy"), ({"draws": 1}, "screen")])
def test_a_screen_that_is_not_there_is_refused_with_its_place(screen: dict[str, Any], place: str) -> None:
    with pytest.raises(BadInput, match=place):
        validated({**FAST, "strategy": {"screen": screen}}, "here")
