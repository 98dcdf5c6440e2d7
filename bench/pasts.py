"""What an engine has been through, beside vending: payments, events out, and the sums that analytics show."""

import random
from typing import NamedTuple

import msgspec

from bench.ledgers import Write
from pluct import payment_codes
from pluct.analytics import STEP_MS, Step, Tally
from pluct.app import now_ms
from pluct.cashier import CLAIM, PHONE_CHECKOUTS_MAX
from pluct.gateways import MPESA
from pluct.gateways.privacy import Privacy
from pluct.model import Checkout, Letter, LetterState, Payment, PaymentEvent, PaymentState
from pluct.observe import BUCKETS_SECONDS
from pluct.payment_settings import DEVELOPMENT_PRIVACY_SECRET
from pluct.stores import rows
from pluct.tickets import uuid7_source

PAYMENTS, REQUESTS = 5_000, 200
#: A phone with more checkouts than are shown.
PHONE, OFTEN = "254712345678", 50
#: Of a hundred payments those with these numbers are so; the rest is paid.
STATES: dict[int, PaymentState] = {
    **dict.fromkeys((0, 1, 2), "unmatched"), **dict.fromkeys((3, 4, 5), "review"), 6: "disputed", 7: "failed"
}  # fmt: skip
DEAD, PENDING = 200, 500
HOURS, MINUTES, PROCESSES = 30 * 24, 2 * 24 * 60, 2
ROUTES = (
    "/vend-token", "/v1/vend-token", "/v1/credits/balance", "/v1/credits/add", "/v1/tickets/redeem", "/v1/checkouts",
    "/v1/tickets/{ticketId}/capture", "/v1/wallets/{userId}", "/console", "/metrics", "/health/ready", "/v1/log",
)  # fmt: skip


class Money(NamedTuple):
    """What came in, oldest first, and what was to be paid for."""

    payments: list[Payment]
    checkouts: list[Checkout]


def money(write: Write) -> Money:
    """Payments, a checkout and two events for each, and what users say they have paid."""
    privacy, next_id, now = Privacy(DEVELOPMENT_PRIVACY_SECRET.encode()), uuid7_source(), now_ms()
    found, events = Money([], []), []
    for number in range(PAYMENTS):
        user, code = f"user-{number}", payment_codes.make(number * 7_919 + 1_000_000_007)
        phone = PHONE if number % OFTEN == 0 else f"2547{number:08}"
        whose = {"phone_hash": privacy.phone_hash(phone), "phone_mask": privacy.phone_mask(phone)}
        state = STATES.get(number % 100, "paid")
        known = state not in ("unmatched", "review")
        credited = {"minted": 10, "grant_id": next_id()} if state in ("paid", "disputed") else {}
        checkout = Checkout(
            next_id(), user, "daraja", "starter", "KES", 10_000, 10, code, code.encode(), "paid", now, now, **whose
        )  # fmt: skip
        payment = Payment(
            next_id(), "daraja", MPESA, "KES", now, now, state, _receipt(number), None, user if known else None,
            checkout.id if known else None, 10_000, code=code, **whose, **credited,
        )  # fmt: skip
        found.checkouts.append(checkout)
        found.payments.append(payment)
        for kind in ("stk", "confirmation"):
            raw = b'{"said":"%s"}' % (kind.encode() * 50)
            events.append(PaymentEvent(next_id(), "daraja", f"{kind}-{number}", kind, now, raw, "", payment.id))
    for number in range(REQUESTS):  # every other one of a payment that never came
        said = {"userId": f"user-{number}", "amount": "100", "reason": "I have paid", "reference": _receipt(number * 2)}
        said["reference"] = said["reference"].replace("S", "T") if number % 2 else said["reference"]
        raw = msgspec.json.encode(said)
        events.append(PaymentEvent(next_id(), CLAIM, f"request-{number}", "request", now, raw))
    assert PAYMENTS / OFTEN > PHONE_CHECKOUTS_MAX
    write("checkouts", [rows.checkout_row(each) for each in found.checkouts])
    write("payments", [rows.payment_row(each) for each in found.payments])
    write("payment_events", [rows.event_row(each) for each in events])
    return found


def _receipt(number: int) -> str:
    return f"SKJ{number:07}"


def letters(write: Write, delivered: int) -> None:
    """Events of the last days: some are dead, since long ago, many were delivered, and the newest are still to be."""
    next_id, now = uuid7_source(), now_ms()
    states: list[LetterState] = ["dead"] * DEAD + ["delivered"] * delivered + ["pending"] * PENDING
    content = '{"type":"credits.low","data":{"userId":"user-1","available":3,"lots":[]}}'
    written = []
    for number, state in enumerate(states):
        due_at = now + 86_400_000 if state == "pending" else now
        letter = Letter(
            next_id(), "https://app.example/hooks", f"user-{number}", 1, "credits.low", content, now, due_at, state, 1
        )  # fmt: skip
        written.append(rows.letter_row(letter))
    write("letters", written)


def sums(write: Write) -> None:
    """The hours of a month and the minutes of two days, of two processes, in which every route was asked for."""
    some, now = random.Random(17), now_ms()
    tallies = [msgspec.json.encode(_tally(some)).decode() for _ in range(50)]
    kept: dict[Step, int] = {"hour": HOURS, "minute": MINUTES}
    write("sums", [
        (step, (now // STEP_MS[step] - back) * STEP_MS[step], f"{process:016x}", some.choice(tallies))
        for step, steps in kept.items() for back in reversed(range(steps)) for process in range(PROCESSES)
    ])  # fmt: skip


def _tally(some: random.Random) -> Tally:
    tally = Tally(cpu_seconds=some.uniform(0, 3_000))
    for route in ROUTES:
        tally.requests |= {f"200 {route}": some.randrange(10**6), f"401 {route}": some.randrange(100)}
        tally.seconds[route] = [float(some.randrange(10**5)) for _ in BUCKETS_SECONDS] + [0.0, some.uniform(0, 1_000)]
    tally.credits = {name: some.randrange(10**6) for name in ("captured", "held", "returned", "grantedPaid")}
    tally.money = {f"daraja {pack} KES": [some.randrange(100), some.randrange(10**7)] for pack in ("starter", "plus")}
    return tally
