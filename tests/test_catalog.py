"""What is sold, and what it costs."""

import pytest

from pluct.catalog import Action, Catalog
from pluct.errors import InvalidRequest

CATALOG = Catalog({
    "default": Action(),
    "transcribe": Action(2, "tttranscribe", settle="report", cost_max=20),
    "plain": Action(3, settle="report"),
})  # fmt: skip


def test_an_action_costs_what_the_catalog_says() -> None:
    """Unless more is asked for."""
    assert CATALOG.hold("default", None) == (Action(1, "premium", 60, "vend", 1800, None), 1)
    assert CATALOG.hold("transcribe", None)[1] == 2


@pytest.mark.parametrize("cost", [2, 3, 20])
def test_a_reported_action_may_hold_more(cost: int) -> None:
    """From its cost up to its limit."""
    assert CATALOG.hold("transcribe", cost) == (CATALOG.actions["transcribe"], cost)


@pytest.mark.parametrize(("name", "cost", "says"), [
    ("transcribe", 1, "from 2 to 20"), ("transcribe", 21, "from 2 to 20"), ("plain", 4, "from 3 to 3"),
    ("default", 1, "fixed at 1"), ("none", None, "default, plain, transcribe"),
])  # fmt: skip
def test_nothing_else_is_sold(name: str, cost: int | None, says: str) -> None:
    """The sentence says what is."""
    with pytest.raises(InvalidRequest, match=says):
        CATALOG.hold(name, cost)


def test_tickets_are_for_the_audiences_of_the_actions() -> None:
    """Each once."""
    assert CATALOG.audiences == {"premium", "tttranscribe"}


@pytest.mark.parametrize(("action", "says"), [
    (Action(cost=0), "cost must"), (Action(audience=""), "audience"), (Action(audience="x" * 201), "audience"),
    (Action(ttl_seconds=0), "ttl_seconds"), (Action(report_seconds=0), "report_seconds"),
    (Action(cost_max=2), "only for"), (Action(cost=3, settle="report", cost_max=2), "from cost"),
])  # fmt: skip
def test_an_action_that_cannot_be_sold_has_one_problem(action: Action, says: str) -> None:
    """A sentence of its own."""
    (problem,) = action.problems()
    assert says in problem


def test_what_can_be_sold_has_none() -> None:
    """The defaults, and every action above."""
    assert [action.problems() for action in CATALOG.actions.values()] == [[], [], []]
