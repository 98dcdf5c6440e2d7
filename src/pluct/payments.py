"""The rules of payments: what money that comes in, goes back or is contested does to wallets.

Gateways tell of one payment several times, in several ways and in any order. So a payment is what has been told of it
so far, each part of which only ever moves on, and its credits are a function of that:

1. A payment mints at most once: under its reference, which is unique and claimed like every reference; or, while only
   its checkout is known to be paid, under that checkout. What turns out to be the same money is joined.
2. What is not understood mints nothing and is kept: `unmatched` without a user, `review` where it does not fit.
3. Checkouts move forward only. A failure never undoes a success; a success counts however late it comes.
4. What is taken back is what the refunds and disputes known now amount to, less what was taken before; never more than
   the payment minted. Money that comes back gives back what its dispute took.
5. A wallet is frozen while a payment of its user is disputed, and under `freeze` while it owes credits.

Each rule is called by `ledger.decide`, validates first, and changes the view last.
"""

from collections.abc import Callable
from typing import Any

import msgspec
from msgspec.structs import replace

from pluct.clawback import caught_up, in_line, with_cases
from pluct.commands import (
    Assign,
    Dispute,
    Note,
    OpenCheckout,
    Progress,
    Receive,
    TakeBack,
    WriteOff,
    once_by_reference,
    reference_key,
)
from pluct.errors import CheckoutNotFound, InvalidRequest, Moved, PaymentAlreadySettled, PaymentNotFound
from pluct.model import (
    ALL_OF_IT,
    Booked,
    Case,
    CheckedOut,
    Checkout,
    Claim,
    Clawback,
    Granted,
    Noted,
    OddAmounts,
    Outcome,
    Pack,
    Payment,
    PaymentEvent,
    issued_account,
)
from pluct.pricing import Bought, bought, one
from pluct.wallet import Draft, View

#: How far apart the two tellings of one payment may put it, where its receipt does not say that it is one.
TWIN_MS_MAX = 180_000
NOTE_LENGTH_MAX = 500

#: The order of a checkout's states. Of failed and expired the first stands.
_STAGES = {"created": 0, "pending": 1, "failed": 2, "expired": 2, "review": 3, "paid": 4}


# Checkouts


def _open_checkout(view: View, command: OpenCheckout, now: int) -> CheckedOut:
    view.put_checkout(command.checkout)
    return CheckedOut(command.checkout.id, command.checkout)


def _progress(view: View, command: Progress, now: int) -> CheckedOut:
    checkout = view.checkouts.get(command.checkout_id)
    if checkout is None or checkout.user_id != command.user_id:
        raise CheckoutNotFound
    checkout = replace(
        checkout,
        gateway_reference=checkout.gateway_reference or command.gateway_reference,
        redirect_url=checkout.redirect_url or command.redirect_url,
        updated_at=now,
    )
    if checkout.state not in ("paid", "review"):
        checkout = replace(checkout, due_at=command.due_at, asked=command.asked)
        if _STAGES[command.state] >= _STAGES[checkout.state]:
            state = command.state if _STAGES[command.state] > _STAGES[checkout.state] else checkout.state
            checkout = replace(checkout, state=state, message=command.message)
    view.put_checkout(checkout)
    if command.event is not None:
        view.events.append(replace(command.event, checkout_id=checkout.id))
    return CheckedOut(checkout.id, checkout)


# Money that comes in


def _receive(view: View, command: Receive, now: int) -> Booked:
    checkout = None if command.checkout_id is None else view.checkouts.get(command.checkout_id)
    if checkout is not None and checkout.user_id != command.user_id:
        raise Moved
    found = _found(view, command, checkout, now)
    if not found and command.reference is None and checkout is not None and checkout.state in ("paid", "review"):
        _hear(view, command, checkout, now)
        view.events.append(replace(command.event, checkout_id=checkout.id))
        return Booked(None)
    at = now if command.at is None else command.at
    before = found[0] if found else Payment(
        command.payment_id, command.event.gateway, command.namespace, command.currency, at, now, confirmed=False
    )  # fmt: skip
    if before.user_id is not None and not command.user_id and (not before.settled or len(found) > 1):
        raise Moved
    draft = Draft(view, command.user_id, now)
    conflict = _conflict(before, found[1:], command, checkout)
    if conflict is not None:
        payment = _noted(before, conflict)
        if before.reference is None and len(found) == 1:  # at least its receipt is known now, and mints nothing more
            payment = replace(payment, reference=command.reference)
    else:
        payment = _told(before, command, checkout, at)
        for double in found[1:]:
            payment = _joined(view, draft, payment, double, command.clawback, now)
        checkout = checkout or view.checkouts.get(payment.checkout_id or "")
        if payment.state in ("unmatched", "review"):
            payment = _decided(view, draft, payment, checkout, command)
        for each in found:
            payment = _noted(payment, _went_back(each, command.currency)[1])
        if checkout is not None:
            checkout = _moved_on(checkout, payment)
    if checkout is not None:
        _hear(view, command, checkout, now)
    return _book(view, draft, before, payment, command.event, now)


def _found(view: View, command: Receive, checkout: Checkout | None, now: int) -> list[Payment]:
    """The payments that this may be told of: the one to go on with, and others that are then the same."""
    names = {name for name in (command.reference, command.link) if name is not None}
    kept = [payment for payment in view.payments.values() if payment.namespace == command.namespace]
    found = {payment.id: payment for payment in kept if payment.reference in names or payment.link in names}
    if checkout is not None:
        of_it = [payment for payment in kept if payment.checkout_id == checkout.id]
        found |= {payment.id: payment for payment in _twins(of_it, command, checkout, now)}
    return sorted(found.values(), key=lambda each: (not each.settled, not each.amount, each.reference is None, each.id))


def _twins(payments: list[Payment], command: Receive, checkout: Checkout, now: int) -> list[Payment]:
    """Of a checkout's payments the one that is the same money, where no receipt says so.

    A prompt is paid once, so whatever comes through it is; of what a person typed, only the same amount at that time.
    """
    unnamed = [payment for payment in payments if payment.reference is None]
    if command.reference is None:
        if unnamed or checkout.state in ("paid", "review"):
            return unnamed
        waiting = [
            payment for payment in payments
            if payment.state == "review" and not payment.confirmed and _fits(payment, checkout)
        ]  # fmt: skip
        return sorted(waiting, key=lambda each: (each.at, each.id))[:1]
    at = now if command.at is None else command.at
    return [
        payment for payment in unnamed
        if not command.typed
        or (
            (command.amount, command.currency) == (payment.amount, payment.currency)
            and checkout.created_at - TWIN_MS_MAX <= at <= payment.at + TWIN_MS_MAX
        )
    ]  # fmt: skip


def _conflict(payment: Payment, doubles: list[Payment], command: Receive, checkout: Checkout | None) -> str | None:
    """What does not agree with what was told before, of this payment or of others that it should be the same as."""
    if not payment.amount:
        return None
    for double in doubles:
        both_named = double.reference is not None and payment.reference is not None
        others = double.settled and double.user_id != command.user_id
        if double.amount and (both_named or others or double.amount != payment.amount):
            return f"Payment {double.id} may be the same money."
    if command.amount not in (None, payment.amount) or command.currency != payment.currency:
        return f"It was also told as {command.amount} {command.currency} in minor units."
    if command.user_id and payment.user_id not in (None, command.user_id):
        return f"It was also told as a payment of {command.user_id}."
    if checkout is not None and payment.checkout_id not in (None, checkout.id):
        return f"It was also told as paid for checkout {checkout.id}."
    return None


def _told(payment: Payment, command: Receive, checkout: Checkout | None, at: int) -> Payment:
    """The payment with what is new of it."""
    if not payment.amount:
        refunded, _ = _went_back(payment, command.currency)
        said = checkout.price if command.amount is None and checkout is not None else command.amount or 0
        payment = replace(
            payment, amount=said, currency=command.currency, at=at, confirmed=False,
            refunded=min(refunded, said) if said else refunded,
        )  # fmt: skip
    typed = (command.code or "") if command.typed else None
    return replace(
        payment,
        reference=command.reference if payment.reference in (None, command.link) else payment.reference,
        link=payment.link or command.link,
        user_id=payment.user_id or command.user_id or None,
        checkout_id=payment.checkout_id or (None if checkout is None else checkout.id),
        confirmed=payment.confirmed or command.confirmed,
        code=typed if payment.code is None else payment.code,
        phone_hash=payment.phone_hash or command.phone_hash,
        phone_mask=payment.phone_mask or command.phone_mask,
    )


def _joined(view: View, draft: Draft, payment: Payment, double: Payment, clawback: Clawback, now: int) -> Payment:
    """Two payments turn out to be one: the first takes over what was told of the second, which comes to nothing.

    If both were credited (one by its receipt, one because its checkout was paid), the second is taken back.
    """
    double = replace(double, refunded=_went_back(double, payment.currency)[0])
    if double.settled:
        double = in_line(draft, replace(double, refunded=double.amount), clawback)
    payment = replace(
        payment,
        reference=payment.reference or double.reference,
        link=payment.link or double.link,
        checkout_id=payment.checkout_id or double.checkout_id,
        confirmed=payment.confirmed or (double.confirmed and double.amount > 0),
        code=double.code if payment.code is None else payment.code,
    )
    if payment.settled:
        payment = caught_up(draft, payment, double.refunded if not double.settled else 0, double.disputes, clawback)
    else:
        payment = replace(
            payment, refunded=max(payment.refunded, min(double.refunded, payment.amount or ALL_OF_IT)),
            disputes=with_cases(payment.disputes, *double.disputes),
        )  # fmt: skip
    gone = _noted(double, f"It is the same money as payment {payment.id}.")
    view.put_payment(replace(gone, state="failed", reference=None, link=None, checkout_id=None, updated_at=now))
    return payment


def _decided(view: View, draft: Draft, payment: Payment, checkout: Checkout | None, command: Receive) -> Payment:
    """A payment that is nobody's yet, in the light of all that has been told of it."""
    if not command.user_id:
        return replace(payment, note="No checkout is known that it pays for.")
    if not payment.amount:
        note = "The gateway did not say how much was paid." if command.amount is None else "Nothing was paid."
        return replace(payment, state="review", note=note)
    if not payment.confirmed:
        return replace(payment, state="review", note="It waits for the gateway's own confirmation.")
    if checkout is not None and payment.code is None and not _fits(payment, checkout):
        asked = f"{checkout.price} {checkout.currency}"
        return replace(payment, state="review", note=f"Its checkout asks for {asked} in minor units.")
    return _credited(view, draft, payment, checkout, command, command.odd_amounts)


def _fits(payment: Payment, checkout: Checkout) -> bool:
    return (payment.amount, payment.currency) == (checkout.price, checkout.currency)


def _moved_on(checkout: Checkout, payment: Payment) -> Checkout:
    """What a payment does to its checkout. What somebody typed pays for it only if the amount is right."""
    if checkout.state == "paid" or checkout.user_id != payment.user_id:
        return checkout
    if payment.settled and (payment.code is None or _fits(payment, checkout)):
        return replace(checkout, state="paid", message="Paid.", due_at=None)
    if payment.state == "review" and payment.code is None and payment.confirmed:
        return replace(checkout, state="review", message="The payment is being looked at.", due_at=None)
    return checkout


def _hear(view: View, command: Receive, checkout: Checkout, now: int) -> None:
    """Keep the checkout, with the gateway's id of it if that is news."""
    heard = replace(checkout, gateway_reference=checkout.gateway_reference or command.gateway_reference)
    if heard != view.checkouts[checkout.id]:
        view.put_checkout(replace(heard, updated_at=now))


# Crediting


def _credited(
    view: View,
    draft: Draft,
    payment: Payment,
    checkout: Checkout | None,
    command: Receive | Assign,
    odd_amounts: OddAmounts,
) -> Payment:
    """The payment, credited to the draft's user with all that is known to have gone back since; or why it is not."""
    refunded, cases = payment.refunded, payment.disputes
    granted = _granted(view, payment)
    if granted is not None:
        if granted.user_id != draft.user_id:
            return replace(payment, state="review", note="Its reference was granted to another user.")
        payment = replace(payment, minted=granted.amount, grant_id=granted.grant_id)
    else:
        buys = _price(draft, payment, checkout, command.packs, odd_amounts)
        if isinstance(buys, str):
            return replace(payment, state="review", note=buys)
        if not draft.has_room(buys.credits):
            return replace(payment, state="review", note="The user's balance would grow too large.")
        payment = _minted(draft, payment, buys, command)
    payment = replace(payment, state="paid", user_id=draft.user_id, note="", refunded=0, disputes=())
    return caught_up(draft, payment, refunded, cases, command.clawback)


def _granted(view: View, payment: Payment) -> Granted | None:
    """The grant that this payment's reference was used for, by hand or by the payment itself."""
    claim = None if payment.reference is None else view.claims.get(reference_key(payment.reference))
    if claim is None:
        return None
    assert isinstance(claim.outcome, Granted), "a reference is claimed by a grant"
    return claim.outcome


def _price(
    draft: Draft, payment: Payment, checkout: Checkout | None, packs: tuple[Pack, ...], odd_amounts: OddAmounts
) -> Bought | str:
    remainder = draft.remainder(payment.currency)
    ours = checkout is not None and checkout.user_id == draft.user_id and checkout.state != "paid"
    if checkout is not None and ours and _fits(payment, checkout):
        return one(checkout.pack_id, checkout.price, checkout.credits, remainder)
    return bought(payment.amount, payment.currency, remainder, packs, odd_amounts)


def _minted(draft: Draft, payment: Payment, buys: Bought, command: Receive | Assign) -> Payment:
    """Write down what was bought."""
    actor, reason = (command.actor, command.reason) if isinstance(command, Assign) else (payment.gateway, None)
    before = draft.remainder(payment.currency)
    draft.keep_remainder(payment.currency, buys.remainder)
    if buys.credits:
        draft.bring_in(
            "grant", buys.credits, issued_account(payment.gateway), command.grant_id, payment.reference, reason, actor
        )
    return replace(
        payment, minted=buys.credits, grant_id=command.grant_id if buys.credits else None, priced=buys.lines,
        remainder_before=before, remainder_after=buys.remainder,
    )  # fmt: skip


# Money that goes back


def _take_back(view: View, command: TakeBack, now: int) -> Booked:
    before = _named(view, command, now)
    refunded = ALL_OF_IT if command.refunded is None else command.refunded
    draft = Draft(view, command.user_id, now)
    if command.currency is not None and before.currency not in ("", command.currency):
        return _book(view, draft, before, _noted(before, _refund(refunded, command.currency)), command.event, now)
    if before.amount:
        refunded = min(refunded, before.amount)
    payment = replace(
        before, refunded=max(before.refunded, refunded), currency=before.currency or command.currency or ""
    )
    if payment.settled:
        payment = in_line(draft, payment, command.clawback)
    return _book(view, draft, before, payment, command.event, now)


def _refund(refunded: int, currency: str) -> str:
    """That a refund is in another currency than its payment."""
    much = "" if refunded == ALL_OF_IT else f"{refunded} "
    return f"A refund was told as {much}{currency} in minor units; it takes nothing back."


def _went_back(payment: Payment, currency: str) -> tuple[int, str]:
    """What went back of a payment, now that its money turns out to be in this currency; and what was told in another.

    Of a refund that comes before its money only the currency of the refund is known.
    """
    if payment.amount or not payment.refunded or payment.currency in ("", currency):
        return payment.refunded, ""
    return 0, _refund(payment.refunded, payment.currency)


def _dispute(view: View, command: Dispute, now: int) -> Booked:
    before = _named(view, command, now)
    case = next((each for each in before.disputes if each.id == command.dispute_id), Case(command.dispute_id))
    match command.change:
        case "opened" if case.stage == "unheard":
            case = replace(case, stage="open")
        case "closed":
            case = replace(case, stage="closed")
        case "funds_withdrawn" if case.funds == "here":
            case = replace(case, funds="withdrawn", amount=command.amount)
        case "funds_reinstated":
            case = replace(case, funds="reinstated")
    draft = Draft(view, command.user_id, now)
    if before.settled:
        payment = caught_up(draft, before, 0, (case,), command.clawback)
    else:
        payment = replace(before, disputes=with_cases(before.disputes, case))
    return _book(view, draft, before, payment, command.event, now)


def _named(view: View, command: TakeBack | Dispute, now: int) -> Payment:
    """The payment that a refund or a dispute names; if it has not come in yet, a place for what is told of it."""
    for payment in view.payments.values():
        if payment.namespace == command.namespace and command.reference in (payment.reference, payment.link):
            if payment.settled and payment.user_id != command.user_id:
                raise Moved
            return payment
    return Payment(
        view.next_id(), command.event.gateway, command.namespace, "", now, now,
        reference=command.reference, note="Its money has not come in yet.",
    )  # fmt: skip


# What people decide


def _assign(view: View, command: Assign, now: int) -> Booked:
    before = _payment(view, command)
    if before.settled and before.user_id == command.user_id:
        return Booked(before.id, before.minted, payment=before, replayed=True)
    if before.state not in ("unmatched", "review"):
        raise PaymentAlreadySettled
    if not before.amount:
        raise InvalidRequest("No money of this payment has come in yet, so it cannot be assigned.")
    granted = _granted(view, before)
    if granted is not None and granted.user_id != command.user_id:
        raise PaymentAlreadySettled
    draft = Draft(view, command.user_id, now)
    checkout = view.checkouts.get(before.checkout_id or "")
    ways: tuple[OddAmounts, ...] = ("pro_rata", "packs") if command.odd_amounts == "pro_rata" else ("packs",)
    for way in ways:  # whatever the amount: a person has decided, so it is not held once more
        payment = _credited(view, draft, before, checkout, command, way)
        if payment.settled:
            break
    else:
        raise InvalidRequest(f"This payment cannot be assigned. {payment.note}")
    if checkout is not None and (moved := _moved_on(checkout, payment)) != checkout:
        view.put_checkout(replace(moved, updated_at=now))
    return _book(view, draft, before, payment, _said(view, "assigned", command, now), now)


def _write_off(view: View, command: WriteOff, now: int) -> Booked:
    before = _payment(view, command)
    if before.state == "written_off":
        return Booked(before.id, payment=before, replayed=True)
    if before.state not in ("unmatched", "review"):
        raise PaymentAlreadySettled
    payment = replace(before, state="written_off", note=command.reason)
    return _book(view, Draft(view, "", now), before, payment, _said(view, "written_off", command, now), now)


def _payment(view: View, command: Assign | WriteOff) -> Payment:
    payment = view.payments.get(command.payment_id)
    if payment is None:
        raise PaymentNotFound
    return payment


def _said(view: View, kind: str, command: Assign | WriteOff, now: int) -> PaymentEvent:
    """An operator's decision as an event."""
    id = view.next_id()
    raw = msgspec.json.encode({"userId": command.user_id, "actor": command.actor, "reason": command.reason})
    return PaymentEvent(id, "operator", id, kind, now, raw)


# Writing down


def _book(view: View, draft: Draft, before: Payment, payment: Payment, event: PaymentEvent, now: int) -> Booked:
    """Put the payment, its event and the wallet into the view, and say what came of it."""
    payment = replace(payment, updated_at=now)
    wallet = view.wallets.get(draft.user_id)
    standing = ((), ()) if wallet is None else (wallet.frozen, wallet.remainders)
    if draft.entries or (draft.frozen, draft.remainders) != standing:
        wallet = draft.save()
    moved = dict.fromkeys(("grant", "clawback", "restore"), 0)
    for entry in draft.entries:
        if entry.kind in moved:
            moved[entry.kind] += entry.amount
    available = wallet.available if wallet is not None and draft.user_id else None
    granted = _granted(view, payment)
    if granted is None and payment.reference is not None and payment.grant_id is not None:
        assert payment.user_id is not None, "what is minted is somebody's"
        once = once_by_reference(payment.reference, payment.user_id, payment.minted)
        granted = Granted(payment.user_id, payment.grant_id, payment.minted, available or 0)
        view.put_claim(Claim(once.key, payment.user_id, once.fingerprint, granted, now))
    if granted is not None and payment.settled and granted.grant_id != payment.grant_id:
        payment = _noted(payment, "Its reference was granted by hand as well.")
    view.put_payment(payment)
    view.events.append(replace(event, payment_id=payment.id, checkout_id=payment.checkout_id))
    return Booked(
        payment.id, moved["grant"], moved["clawback"] - moved["restore"], payment.lost - before.lost, available, payment
    )


def _noted(payment: Payment, sentence: str) -> Payment:
    if sentence in payment.note:
        return payment
    return replace(payment, note=f"{payment.note} {sentence}".strip()[:NOTE_LENGTH_MAX])


def _note(view: View, command: Note, now: int) -> Noted:
    view.events.append(command.event)
    return Noted(command.event.id)


#: Rules: one per command.
RULES: dict[type, Callable[[View, Any, int], Outcome]] = {
    OpenCheckout: _open_checkout,
    Progress: _progress,
    Receive: _receive,
    TakeBack: _take_back,
    Dispute: _dispute,
    Assign: _assign,
    WriteOff: _write_off,
    Note: _note,
}
