"""Every refusal and every fault: one class, a sentence, a code, a status.

A *refusal* is a rule's no: an ordinary outcome, safe to show to the caller. A *fault* is an accident of ours or of
the machine. The class's docstring is its sentence unless a better one is given. Statuses are hints for whoever
speaks HTTP; nothing here knows HTTP otherwise.
"""


class PluctError(Exception):
    """Something went wrong."""

    code = "internal"
    status = 500
    title = "Internal error"
    retry_after_seconds: int | None = None  # when the same may be asked again with better hopes

    def __init__(self, sentence: str | None = None) -> None:
        self.sentence = sentence or (type(self).__doc__ or "").strip()
        super().__init__(self.sentence)


class Refusal(PluctError):
    """The request was refused."""


class InvalidRequest(Refusal):
    """The request is not valid."""

    code, status, title = "invalid_request", 400, "Invalid request"


class AmountTooLarge(Refusal):
    """The amount is too large: at most 1000000000 at once, and no balance above 9007199254740991."""

    code, status, title = "amount_too_large", 400, "Amount too large"


class Unauthorized(Refusal):
    """A valid key or token is required."""

    code, status, title = "unauthorized", 401, "Unauthorized"


class InsufficientCredits(Refusal):
    """The wallet does not hold enough credits."""

    code, status, title = "insufficient_credits", 402, "Insufficient credits"


class WalletFrozen(Refusal):
    """This wallet is frozen: a payment is disputed, or a debt is to be repaid first."""

    code, status, title = "wallet_frozen", 402, "Wallet frozen"


class Forbidden(Refusal):
    """This key may not do that."""

    code, status, title = "forbidden", 403, "Forbidden"


class RouteNotFound(Refusal):
    """There is nothing at this address; see /docs for the routes."""

    code, status, title = "route_not_found", 404, "Route not found"


class TicketNotFound(Refusal):
    """There is no such ticket."""

    code, status, title = "ticket_not_found", 404, "Ticket not found"


class WalletNotFound(Refusal):
    """This user has no wallet: nothing was ever granted to this id."""

    code, status, title = "wallet_not_found", 404, "Wallet not found"


class EventNotFound(Refusal):
    """No event has this id."""

    code, status, title = "event_not_found", 404, "Event not found"


class PaymentNotFound(Refusal):
    """There is no such payment."""

    code, status, title = "payment_not_found", 404, "Payment not found"


class CheckoutNotFound(Refusal):
    """There is no such checkout."""

    code, status, title = "checkout_not_found", 404, "Checkout not found"


class MethodNotAllowed(Refusal):
    """This address does not take that method."""

    code, status, title = "method_not_allowed", 405, "Method not allowed"


class IdempotencyKeyReused(Refusal):
    """This idempotency key was used for a different request; send a new key for a new request."""

    code, status, title = "idempotency_key_reused", 409, "Idempotency key reused"


class ReferenceConflict(Refusal):
    """This payment reference was already granted to another user or for another amount."""

    code, status, title = "reference_conflict", 409, "Reference conflict"


class TicketAlreadyRedeemed(Refusal):
    """This ticket was redeemed before; each ticket is good for one action."""

    code, status, title = "ticket_already_redeemed", 409, "Ticket already redeemed"


class TicketAlreadySettled(Refusal):
    """This ticket's credits were already captured or given back."""

    code, status, title = "ticket_already_settled", 409, "Ticket already settled"


class TicketNotRedeemed(Refusal):
    """This ticket must be redeemed before it is captured."""

    code, status, title = "ticket_not_redeemed", 409, "Ticket not redeemed"


class PaymentAlreadySettled(Refusal):
    """This payment was already credited to another user, or written off."""

    code, status, title = "payment_already_settled", 409, "Payment already settled"


class Stale(Refusal):
    """The wallet has changed since you looked at it; look again, then decide."""

    code, status, title = "stale", 409, "Stale"


class TicketExpired(Refusal):
    """This ticket has expired; vend a new one."""

    code, status, title = "ticket_expired", 410, "Ticket expired"


class Moved(Refusal):
    """This payment belongs to another user by now; look whose it is, and ask again."""

    code, status, title = "unavailable", 503, "Unavailable"


class BodyTooLarge(Refusal):
    """The body is larger than 64 KiB."""

    code, status, title = "body_too_large", 413, "Body too large"


class RateLimited(Refusal):
    """Too much was asked for in too short a time; try again shortly."""

    code, status, title = "rate_limited", 429, "Rate limited"

    def __init__(self, sentence: str | None = None, retry_after_seconds: int = 1) -> None:
        super().__init__(sentence)
        self.retry_after_seconds = retry_after_seconds


class Fault(PluctError):
    """The engine could not answer; the cause is in its log."""

    title = "Internal error"


class Unavailable(Fault):
    """The ledger cannot be written now; try again shortly."""

    code, status, title = "unavailable", 503, "Unavailable"
    retry_after_seconds = 1


class OutcomeUnknown(Unavailable):
    """The ledger broke off while committing: the change may or may not have happened. Repeat it with the same key."""


class SetupError(PluctError):
    """The engine cannot start as it is set up."""

    code, title = "setup", "Cannot run"
