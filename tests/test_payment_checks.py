"""`pluct check` of payments: damage to a ledger busy with them is found under its own name, in every engine.

Each way breaks one invariant and keeps the others; see `test_check.py`.
"""

import pytest

from busy import Ledgers, run
from busy_payments import busy_with_payments
from conftest import ENGINES
from pluct.stores import payment_checks
from test_check import found, found_after, named

PRICE = "money in is credits by the price list"
GRANT = "a payment's credits are those of its grant"
BACK = "what is taken back of a payment is what went back with its money"
ENTRIES = "what is taken back of a payment is in its user's entries"
STATE = "a payment's state is what is known of it"
FROZEN = "a wallet is frozen by its open disputes or its debt, and by nothing else"
LEFT = "money left over is what payments left"
PAID = "a paid checkout has its payment"
NAMES = "what names a payment or a checkout names one that is there"
REFERENCE = "a payment reference is claimed by the one grant it has"
JSON = "what is kept as JSON can be read"
KIND = "an entry moves credits between the accounts of its kind"


PAYMENT = "UPDATE payments SET {} WHERE reference = '{}';".format
STANDING = "UPDATE wallets SET standing = '{}' WHERE user_id = '{}';".format

DAMAGE = [
    (PRICE, "money that vanished", PAYMENT("amount = amount + 1", "R2")),
    (PRICE, "a pack too many", PAYMENT("priced = replace(priced, '60,2]', '60,3]')", "R2")),
    (PRICE, "a remainder that nobody left", PAYMENT("remainder_before = 1, remainder_after = 1 + remainder_after",
                                                    "R10") + PAYMENT("amount = 501", "R10")),
    (PRICE, "a rate that is none", PAYMENT("amount = amount - 1000, refunded = refunded - 1000", "R3")),
    (PRICE, "a double of other credits", "UPDATE payments SET amount = 10001 WHERE state = 'failed';"),
    (GRANT, "a grant that nobody made", PAYMENT("grant_id = 'none'", "R4")),
    (GRANT, "another's grant", PAYMENT("user_id = 'brian'", "R4")),
    (GRANT, "more credits than were granted", PAYMENT("minted = 13", "R4")),
    (BACK, "a refund that took nothing", PAYMENT("refunded = 9000, amount = 123456", "R2")),
    (BACK, "a dispute that took nothing", PAYMENT("disputes = replace(disputes, 'reinstated', 'withdrawn')", "R1")),
    (ENTRIES, "a loss that was none", PAYMENT("lost = lost + 1", "R11")),
    (STATE, "a refund that nobody sees", PAYMENT("state = 'paid'", "R2")),
    (STATE, "a dispute that nobody sees", PAYMENT("state = 'paid'", "R1")),
    (STATE, "money of nobody", PAYMENT("state = 'paid', amount = 0, priced = '[]'", "R6")),
    (FROZEN, "a dispute that froze nobody", STANDING('[[],[["KES",3456]]]', "amina")),
    (FROZEN, "a dispute of nothing", STANDING('[["d9"],[["KES",500]]]', "esther")),
    (FROZEN, "a debt that is none", STANDING('[["debt"],[["KES",500]]]', "esther")),
    (LEFT, "money that nobody left", STANDING('[[],[["KES",500],["USD",1]]]', "esther")),
    (LEFT, "money that is gone", "UPDATE wallets SET standing = NULL WHERE user_id = 'esther';"),
    (PAID, "a checkout that nobody paid", "UPDATE checkouts SET state = 'paid' WHERE user_id = 'brian';"),
    (PAID, "a checkout that another paid", "UPDATE checkouts SET user_id = 'brian' WHERE user_id = 'dalia';"),
    (NAMES, "an event of no payment", "UPDATE payment_events SET payment_id = 'none' WHERE payment_id IS NULL;"),
    (NAMES, "an event of no checkout", "UPDATE payment_events SET checkout_id = 'none' WHERE payment_id IS NULL;"),
    (NAMES, "a payment of no checkout", PAYMENT("checkout_id = 'none'", "R7")),
    (REFERENCE, "a receipt that may be granted again", PAYMENT("reference = 'R99'", "R8")),
    (JSON, "a standing that cannot be read", STANDING("[", "esther")),
    (JSON, "disputes that cannot be read", PAYMENT("disputes = 'none'", "R5")),
    (JSON, "prices that cannot be read", PAYMENT("priced = '{'", "R5")),
    (KIND, "a claw-back to nowhere", "UPDATE entries SET credit = 'nowhere' WHERE kind = 'clawback';"),
    (KIND, "credits restored from nowhere", "UPDATE entries SET debit = 'nowhere' WHERE kind = 'restore';"),
]  # fmt: skip


@pytest.fixture(scope="module", params=ENGINES)
def ledgers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Ledgers:
    """Each engine's."""
    server = None if request.param == "sqlite" else request.getfixturevalue("server_url")(request.param)
    return Ledgers(request.param, tmp_path_factory.mktemp("payments"), server, busy_with_payments)


def test_every_invariant_has_its_damage() -> None:
    """No query goes without a kind of damage that it finds."""
    invariants = set(payment_checks.checks(payment_checks.SQLITE))
    assert invariants == set(payment_checks.checks(payment_checks.POSTGRESQL))
    assert {invariant for invariant, _, _ in DAMAGE} == {*invariants, REFERENCE, JSON, KIND}


def test_a_ledger_busy_with_payments_is_sound(ledgers: Ledgers) -> None:
    """Every state of a payment, and nothing to find."""
    states = {state for (state,) in map(tuple, run(ledgers.busy, "SELECT DISTINCT state FROM payments"))}
    assert states == {"unmatched", "review", "paid", "failed", "part_refunded", "refunded", "disputed", "written_off"}
    kinds = {kind for (kind,) in map(tuple, run(ledgers.busy, "SELECT DISTINCT kind FROM entries"))}
    assert {"grant", "clawback", "restore", "repay"} <= kinds
    assert found(ledgers.busy) == []


@pytest.mark.parametrize(("invariant", "script"), [(i, s) for i, _, s in DAMAGE], ids=[name for _, name, _ in DAMAGE])
def test_damage_is_found_under_its_own_name(ledgers: Ledgers, invariant: str, script: str) -> None:
    """Each way to break one invariant is found as that invariant, and as no other."""
    violations = found_after(ledgers, script)
    assert named(violations) == {invariant}, violations
