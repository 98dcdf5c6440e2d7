"""What goes back with the money: the credits of refunds and disputes, and what a dispute gives back once it is won.

The credits that have gone back are a function of what is known of a payment now, not of the order in which it became
known: money that is gone takes its share of what was minted, rounded down, and never more than all.
"""

from msgspec.structs import replace

from pluct.model import DEBT, Case, Clawback, Payment, PaymentState, issued_account
from pluct.wallet import Draft


def caught_up(
    draft: Draft, payment: Payment, refunded: int, cases: tuple[Case, ...], clawback: Clawback
) -> Payment:  # fmt: skip
    """A credited payment after these refunds and disputes: its credits, and whether the wallet is frozen."""
    payment = replace(payment, refunded=max(payment.refunded, min(refunded, payment.amount)))
    payment = in_line(draft, payment, clawback)
    for case in cases:
        payment = in_line(draft, replace(payment, disputes=with_cases(payment.disputes, case)), clawback, case)
        if case.stage == "open":
            draft.freeze(case.id)
        else:
            draft.unfreeze(case.id)
    return payment


def in_line(draft: Draft, payment: Payment, clawback: Clawback, case: Case | None = None) -> Payment:
    """Take back, or give back, what the refunds and disputes of a credited payment amount to now.

    `case` is the dispute of which something was heard: what it takes in vain it will not give back.
    """
    due = _gone(payment) - payment.clawed
    if due > 0:
        lost = draft.claw(due, payment.grant_id, issued_account(payment.gateway), owing=clawback != "floor")
        if clawback == "freeze" and draft.debt:
            draft.freeze(DEBT)
        if case is not None and lost:
            payment = replace(payment, disputes=with_cases(payment.disputes, replace(case, lost=case.lost + lost)))
        payment = replace(payment, clawed=payment.clawed + due, lost=payment.lost + lost)
    elif due < 0:
        in_vain = 0 if case is None else min(case.lost, -due, payment.lost)
        back = min(-due - in_vain, payment.clawed - payment.lost)
        if back:
            draft.require_room(back)
            assert payment.grant_id is not None, "what was taken back was granted"
            draft.bring_in("restore", back, issued_account(payment.gateway), payment.grant_id)
        payment = replace(payment, clawed=payment.clawed + due, lost=payment.lost + due + back)
    return replace(payment, state=_state(payment))


def _gone(payment: Payment) -> int:
    """The credits that went with the money that is gone: rounded down, and all if all of it is."""
    money = payment.refunded
    for case in payment.disputes:
        if case.funds == "withdrawn":
            money += payment.amount if case.amount is None else case.amount
    return payment.minted if money >= payment.amount else payment.minted * money // payment.amount


def _state(payment: Payment) -> PaymentState:
    """A credited payment's state, which moves forward as what is told of it does."""
    if payment.disputes:
        return "disputed"
    if not payment.refunded:
        return "paid"
    return "refunded" if payment.refunded >= payment.amount else "part_refunded"


def with_cases(known: tuple[Case, ...], *news: Case) -> tuple[Case, ...]:
    """The disputes with what is new of some, in the order of their names."""
    cases = {case.id: case for case in (*known, *news)}
    return tuple(cases[id] for id in sorted(cases))
