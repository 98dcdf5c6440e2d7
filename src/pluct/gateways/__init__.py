"""What a payment gateway is to the engine: something that is asked for money, and that says what became of it.

An adapter is one file. It turns a `Checkout` into the gateway's request, and whatever the gateway sends into a
`Notice`: an event with a key that is the same however often it is sent, and what it says in our words (`Paid`,
`Failed`, `Refunded`, `Disputed`). It decides nothing about credits, keeps nothing and touches no ledger: it
authenticates, parses, and asks the gateway again where its word alone is not enough. Amounts are minor units
(`money.py`), times milliseconds.

What reaches the ledger holds no phone number, name or card: `Notice.raw` is redacted by the adapter (`privacy.py`).
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Literal, Protocol

import msgspec

from pluct.model import Checkout

#: Payments of one namespace share their references: every way that M-Pesa tells of a payment names its receipt.
MPESA = "mpesa"


class Paid(msgspec.Struct, frozen=True, tag="paid"):
    """Money has come in.

    `reference` is the once-only key within `namespace` (an M-Pesa receipt, a Stripe session); None if the gateway said
    only that a checkout is paid, and the receipt is still to come. `link` is another id by which later refunds and
    disputes name the payment (a Stripe payment intent). Which checkout it belongs to is said by `checkout_id` (ours,
    given to the gateway) or by `code` (a payment code as a person typed it, in any spelling); by neither, it is the one
    that has the notice's `checkout_reference`.
    """

    namespace: str
    reference: str | None
    amount: int | None  # None: the gateway did not say; it is the checkout's. 0: nothing, so it is reviewed
    currency: str
    link: str | None = None
    checkout_id: str | None = None
    code: str | None = None
    typed: bool = False  # a person typed the amount: another than the checkout's is priced; otherwise it is reviewed
    confirmed: bool = True  # False: to be held until the gateway itself confirms it
    phone: str | None = None  # hashed and masked before it is kept; one with `*` in it comes masked and has no hash
    at: int | None = None


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """A checkout came to nothing, for now: it stays payable."""

    checkout_id: str
    message: str  # for the user
    expired: bool = False


class Pending(msgspec.Struct, frozen=True, tag="pending"):
    """Asked about a checkout, the gateway does not know yet."""

    checkout_id: str


class Refunded(msgspec.Struct, frozen=True, tag="refunded"):
    """Money went back. `reference` is the payment's reference or link; `amount` is all that went back so far."""

    namespace: str
    reference: str
    amount: int | None  # None: all of it
    currency: str | None = None


class Disputed(msgspec.Struct, frozen=True, tag="disputed"):
    """The payer's bank contests a payment."""

    namespace: str
    reference: str
    dispute_id: str
    change: Literal["opened", "funds_withdrawn", "funds_reinstated", "closed"]
    amount: int | None = None


class Credited(msgspec.Struct, frozen=True, tag="credited"):
    """A back office of ours wants a user to have credits: no money is named, and no checkout or price is looked for.

    `reference` is the once-only key, shared with every other way of granting.
    """

    user_id: str
    credits: int
    reference: str


Said = Paid | Failed | Pending | Refunded | Disputed | Credited


class Notice(msgspec.Struct, frozen=True):
    """An event from a gateway: stored once by `key`, with the transaction that acts on what it says."""

    key: str  # once-only within the gateway
    kind: str  # the gateway's own word for it, for operators
    raw: bytes  # redacted JSON, for operators
    said: Said | None = None  # None: it means nothing to us, and is only kept
    note: str = ""  # why it means nothing, or what is odd about it
    #: The gateway's id of the checkout, where it came before the answer to the request: kept if the checkout has none
    #: yet. If it is another checkout's, the notice says nothing.
    checkout_reference: str | None = None


class Received(msgspec.Struct, frozen=True):
    """What came of a request to a hook: events to act on, and the answer that the gateway expects."""

    notices: tuple[Notice, ...]
    answer: object = None  # JSON; None: {"ok": true}
    #: To be called once the notices are safely stored and the answer is sent: a question to the gateway that may take
    #: its time. It raises nothing; what it says is stored like any other notice.
    then: Callable[[], Awaitable[Notice]] | None = None


class Started(msgspec.Struct, frozen=True):
    """What came of asking a gateway for money. `state` is never `paid`: that is for a notice to say."""

    state: Literal["pending", "failed"]
    message: str  # for the user
    reference: str | None = None  # the gateway's id of the checkout, by which it can be asked
    redirect_url: str | None = None  # where the user pays
    query: bool = True  # whether `ask` can be tried later if nothing is heard
    note: str = ""  # why, for operators: the gateway's own words, with no secret in them


class Gateway(Protocol):
    """A payment gateway. It is made from its settings, an `httpx.AsyncClient`, a `Privacy` and a clock."""

    @property
    def name(self) -> str:
        """What it is called in `pluct.toml`, in addresses and in the ledger."""
        ...

    @property
    def hooks(self) -> tuple[str, ...]:
        """Paths below `/hooks/<name>`, e.g. `("",)` or `("/stk/{token}", "/c2b/{token}/confirmation")`."""
        ...

    @property
    def checkout_hooks(self) -> tuple[str, ...]:
        """Those of them whose addresses hold a token of one checkout's own."""
        ...

    @property
    def sells(self) -> bool:
        """Whether a user can begin a checkout here."""
        ...

    @property
    def needs_phone(self) -> bool:
        """Whether a user must name a phone for that."""
        ...

    def takes(self, currency: str, price: int) -> bool:
        """Whether this price, in minor units, can be asked for here."""
        ...

    async def start(self, checkout: Checkout, token: str, phone: str | None) -> Started:
        """Ask for the money; `token` is for the address of the callback. Never sends twice.

        Whatever the gateway or the network does is a state and a message, not an exception.

        Raises `InvalidRequest` for what the user can mend (a phone number that is none).
        """
        ...

    async def receive(
        self,
        hook: str,
        token: str,
        headers: Mapping[bytes, bytes],
        body: bytes,
        address: str,
        by_token: Checkout | None,
    ) -> Received:
        """Authenticate and read a request to `hook`. `by_token` is the checkout whose callback token it carries.

        Raises `Unauthorized` (a bad signature), `RouteNotFound` (an unknown token), `Unavailable` (it cannot be
        verified now). Whatever is authentic but not understood is a notice that says nothing.
        """
        ...

    def ask_after(self, asked: int) -> int | None:
        """Seconds until a checkout is asked about that was asked about `asked` times before; None: no more."""
        ...

    async def ask(self, checkout: Checkout) -> Notice | None:
        """Ask what became of a checkout of which nothing was heard. None: not now, or not here. Never raises."""
        ...

    def listed(self, since: int) -> AsyncIterator[Notice] | None:
        """Every payment since then (milliseconds), as the gateway itself lists them; None: it has no such list.

        Going through it raises `Unavailable` if the list cannot be had.
        """
        ...
