"""What is asked of the ledger: claims and the rows a command needs."""

import pytest
from msgspec.structs import replace

from pluct.commands import (
    NOTHING,
    Adjust,
    Assign,
    Capture,
    Command,
    Dispute,
    Expire,
    Fund,
    Needs,
    Note,
    Probe,
    Progress,
    Receive,
    Redeem,
    TakeBack,
    Vend,
    Void,
    WriteOff,
    needs,
    once,
    once_by_event,
    once_by_reference,
    reference_key,
    text,
)
from pluct.errors import InvalidRequest
from pluct.model import PaymentEvent


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


EVENT = PaymentEvent("e", "daraja", "k", "stk", 1, b"{}")
RECEIVE = Receive("u", "p", "g", EVENT, "mpesa", None, None, "KES", (), "packs", "debt")


@pytest.mark.parametrize(("command", "needed"), [
    (Redeem("u", "t", "p"), Needs(tickets=("t",))),
    (Capture("u", "t", None, 1), Needs(tickets=("t",))),
    (Void("u", "t", 1, "x"), Needs(tickets=("t",))),
    (Expire("u", 1, ("s", "t")), Needs(tickets=("s", "t"))),
    (Expire("u", 1), NOTHING),
    (Fund("u", "g", 1, "s"), NOTHING),
    (Vend("u", "t", "a", "p", 1, 60), NOTHING),
    (Adjust("u", "g", 1, "x", "y"), NOTHING),
    (Probe(), NOTHING),
    (Note("", EVENT), NOTHING),
    (Progress("u", "c", "failed", "x"), Needs(checkouts=("c",))),
    (RECEIVE, NOTHING),
    (replace(RECEIVE, reference="R", link="L", checkout_id="c"),
     Needs(payment_names=(("mpesa", "R"), ("mpesa", "L")), checkouts=("c",), references=("R",))),
    (TakeBack("u", "mpesa", "R", 1, EVENT, "debt"), Needs(payment_names=(("mpesa", "R"),))),
    (Dispute("u", "stripe", "L", "d", "opened", 1, EVENT, "debt"), Needs(payment_names=(("stripe", "L"),))),
    (Assign("u", "p", "g", "x", "y", (), "packs", "debt"), Needs(payments=("p",))),
    (WriteOff("", "p", "x", "y"), Needs(payments=("p",))),
])  # fmt: skip
def test_a_command_names_the_rows_it_needs(command: Command, needed: Needs) -> None:
    """A new ticket or payment is not one of them."""
    assert needs(command) == needed


def test_an_event_is_the_same_in_whatever_form_it_comes() -> None:
    """Its gateway and its key are all there is to it."""
    assert once_by_event("stripe", "evt_1") == once_by_event("stripe", "evt_1")
    assert len({once_by_event(*each).key for each in (("a", "b"), ("a", "c"), ("ab", ""))}) == 3
    assert reference_key("R") == once_by_reference("R", "u", 5).key


@pytest.mark.parametrize("value", ["u", "a" * 200, "\N{GRINNING FACE}" * 200, " ", "é", "\u00a0", "\ufeff", "/.%"])
def test_a_short_text_is_taken_as_it_is(value: str) -> None:
    """Up to 200 characters, counted as code points."""
    assert text(value, "userId") == value


@pytest.mark.parametrize("value", ["", "a" * 201, "\0", "a\n", "\x1f", "\x7f", "\x80", "\x9f", "\ud800", "\udfff"])
def test_an_empty_long_or_unprintable_text_is_refused_by_name(value: str) -> None:
    """Control characters and halves of surrogate pairs cannot be said back to anyone."""
    with pytest.raises(InvalidRequest, match=r"^userId must be 1 to 200 characters, without control characters\.$"):
        text(value, "userId")
