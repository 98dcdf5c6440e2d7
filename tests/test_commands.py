"""What is asked of the ledger: claims and the rows a command needs."""

import pytest

from pluct.commands import (
    Adjust,
    Capture,
    Command,
    Expire,
    Fund,
    Probe,
    Redeem,
    Vend,
    Void,
    once,
    once_by_reference,
    text,
    ticket_ids,
)
from pluct.errors import InvalidRequest


def test_a_key_is_known_by_operation_scope_and_itself() -> None:
    """Nothing else; and no two of them run together."""
    keys = {
        once("vend", "u", "k").key, once("add", "u", "k").key, once("vend", "v", "k").key, once("vend", "u", "l").key,
        once("vend", "uk", "").key, once("ven", "du", "k").key,
    }  # fmt: skip
    assert len(keys) == 6 and {len(key) for key in keys} == {20}
    assert once("vend", "u", "k", "a", 1).key == once("vend", "u", "k", "b", None).key


def test_a_fingerprint_is_of_the_request() -> None:
    """Values and their types count, and their order."""
    requests: list[tuple[object, ...]] = [(), ("1",), (1,), (None,), (True,), ("1", None), (None, "1"), ("1", "2")]
    prints = {once("vend", "u", "k", *request).fingerprint for request in requests}
    assert len(prints) == len(requests) and {len(found) for found in prints} == {16}
    assert once("vend", "u", "k").kind == "idempotency_key"


def test_a_reference_is_the_same_whoever_it_names() -> None:
    """Its request is not."""
    first, second = once_by_reference("r", "u", 5), once_by_reference("r", "v", 5)
    assert first.key == second.key and first.fingerprint != second.fingerprint
    assert first.fingerprint != once_by_reference("r", "u", 6).fingerprint
    assert first.kind == "reference" and first.key != once_by_reference("s", "u", 5).key


@pytest.mark.parametrize(("command", "needs"), [
    (Redeem("u", "t", "p"), ("t",)),
    (Capture("u", "t", None, 1), ("t",)),
    (Void("u", "t", 1, "x"), ("t",)),
    (Expire("u", 1, ("s", "t")), ("s", "t")),
    (Fund("u", "g", 1, "s"), ()),
    (Vend("u", "t", "a", "p", 1, 60), ()),
    (Adjust("u", "g", 1, "x", "y"), ()),
    (Probe(), ()),
])  # fmt: skip
def test_a_command_names_the_tickets_it_needs(command: Command, needs: tuple[str, ...]) -> None:
    """A new ticket is not one of them."""
    assert ticket_ids(command) == needs


@pytest.mark.parametrize("value", ["u", "a" * 200, "\N{GRINNING FACE}" * 200, " ", "é", "\u00a0", "\ufeff", "/.%"])
def test_a_short_text_is_taken_as_it_is(value: str) -> None:
    """Up to 200 characters, counted as code points."""
    assert text(value, "userId") == value


@pytest.mark.parametrize("value", ["", "a" * 201, "\0", "a\n", "\x1f", "\x7f", "\x80", "\x9f", "\ud800", "\udfff"])
def test_an_empty_long_or_unprintable_text_is_refused_by_name(value: str) -> None:
    """Control characters and halves of surrogate pairs cannot be said back to anyone."""
    with pytest.raises(InvalidRequest, match=r"^userId must be 1 to 200 characters, without control characters\.$"):
        text(value, "userId")
