"""What a store promises, and which one an address names.

A store takes commands, runs the rules over them batch by batch, and answers only what is durable. It is the only
thing that knows a database; nothing above it speaks SQL.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Protocol

import msgspec

from pluct.commands import Command, Expire
from pluct.errors import Refusal
from pluct.limits import Turns
from pluct.model import (
    ApiKey,
    Checkout,
    Entry,
    Family,
    Letter,
    LetterState,
    Outcome,
    Payment,
    PaymentEvent,
    PaymentState,
    Session,
    SigningKey,
    Sums,
    Ticket,
    Wallet,
)
from pluct.outbox import Outbox
from pluct.wallet import View

#: See `open_store`.
Watch = Callable[[View, Mapping[str, Payment]], None]


class Violation(msgspec.Struct, frozen=True):
    """An invariant found broken: which one, where, and what was seen."""

    invariant: str
    subject: str
    found: str


Row = tuple[Any, ...]
#: Rows read or written at once when a whole ledger is.
PAGE = 1_000


class Contents(Protocol):
    """All rows of a ledger, table by table as in `rows.TABLES`, while nobody else can change them."""

    async def count(self, table: str) -> int:
        """How many rows a table has."""
        ...

    def pages(self, table: str) -> AsyncIterator[list[Row]]:
        """A table's rows in the order of their keys, `PAGE` at a time."""
        ...

    async def add(self, table: str, page: list[Row]) -> None:
        """Write new rows."""
        ...

    async def check(self, progress: Callable[[str, int, int], None]) -> list[Violation]:
        """See `Store.check`; over what has been written too."""
        ...

    async def commit(self) -> None:
        """Keep what has been written. Without it, nothing is."""
        ...


class Reads(Protocol):
    """What can be read of a ledger, one user or ticket at a time."""

    async def wallet(self, user_id: str) -> Wallet | None:
        """One user's wallet."""
        ...

    async def entries(self, user_id: str, limit: int, cursor: str | None) -> list[Entry]:
        """The user's entries, newest first, from the one named by `cursor` on."""
        ...

    async def ticket(self, ticket_id: str) -> Ticket | None:
        """One ticket."""
        ...


class SharedLog(Protocol):
    """What processes hand each other of their live logs while somebody watches."""

    async def watched_until(self) -> int:
        """Until when (ms) somebody watches anywhere."""
        ...

    async def add(self, process: str, lines: str, lost: int) -> None:
        """Hand over lines (JSON), and say how many there were besides."""
        ...

    async def newest(self) -> int:
        """The number of the newest that there are."""
        ...

    async def lines(self, after: int, but_of: str, seen: Sequence[int]) -> list[tuple[int, str, int]]:
        """Number, lines and how many were lost, after that number: not of this process, and not those seen."""
        ...

    async def sweep(self) -> None:
        """Forget what is older than a minute."""
        ...


class Store(Reads, Protocol):
    """A durable ledger. Every method may raise `Unavailable`."""

    turns: Turns  #: where rate limits are counted
    shared_log: "SharedLog | None"  #: None: one process has all of it

    @property
    def reads(self) -> Reads:
        """The same reads for whoever decides nothing by them: they may be a moment behind."""
        ...

    async def open(self) -> tuple[int, int]:
        """Bring the schema up to date and be ready: the version it had, and the one it has. Raises `SetupError`."""
        ...

    async def close(self) -> None:
        """Finish what is in flight and let go."""
        ...

    async def submit(self, command: Command) -> Outcome | Refusal:
        """The command's outcome, once it is durable, or the rules' no."""
        ...

    async def due(self, now: int, grace_seconds: int, limit: int) -> list[Expire]:
        """The sweeps that are due: at most `limit`, one per user."""
        ...

    async def checkout(self, checkout_id: str) -> Checkout | None:
        """One checkout."""
        ...

    async def checkout_by_code(self, code: str) -> Checkout | None:
        """The checkout with this payment code."""
        ...

    async def checkout_by_token(self, token_hash: bytes) -> Checkout | None:
        """The checkout whose callback's address holds a token with this SHA-256."""
        ...

    async def checkout_by_reference(self, gateway: str, gateway_reference: str) -> Checkout | None:
        """The checkout that a gateway knows by this id."""
        ...

    async def checkouts_due(self, now: int, limit: int) -> list[Checkout]:
        """The checkouts about which their gateways are to be asked by now, the longest due first."""
        ...

    async def checkouts_of_phone(self, phone_hash: bytes, limit: int) -> list[Checkout]:
        """The checkouts of whoever has this phone, newest first."""
        ...

    async def checkouts_of(self, user_id: str, limit: int) -> list[Checkout]:
        """This user's checkouts, newest first."""
        ...

    async def payments_of(self, user_id: str, limit: int) -> list[Payment]:
        """This user's payments, newest first."""
        ...

    async def payments_of_phone(self, phone_hash: bytes, limit: int) -> list[Payment]:
        """The payments that came from this phone, newest first."""
        ...

    async def checkouts_of_mask(self, phone_mask: str, limit: int) -> list[Checkout]:
        """The checkouts of phones that look so once they are masked, newest first."""
        ...

    async def payments_of_mask(self, phone_mask: str, limit: int) -> list[Payment]:
        """The payments from phones that look so once they are masked, newest first."""
        ...

    async def payment(self, payment_id: str) -> Payment | None:
        """One payment."""
        ...

    async def find_payment(self, namespace: str, reference: str) -> Payment | None:
        """The payment with this reference, or this link."""
        ...

    async def find_payments(self, namespace: str, references: Sequence[str]) -> list[Payment]:
        """The payments with these references, in no order."""
        ...

    async def payments_at(self, namespace: str, since: int, until: int, after: str, limit: int) -> list[Payment]:
        """Payments whose money came in from `since` to `until`, by id, from the one after `after` on."""
        ...

    async def payments(
        self, state: PaymentState | None, gateway: str | None, limit: int, cursor: str | None
    ) -> list[Payment]:
        """Payments, newest first, from the one named by `cursor` on."""
        ...

    async def claims(self, limit: int, cursor: str | None) -> list[PaymentEvent]:
        """What users said they had paid, newest first, from the one named by `cursor` on."""
        ...

    async def payment_events(self, payment_ids: Sequence[str]) -> list[PaymentEvent]:
        """What was said of these payments and of their checkouts, oldest first; a bounded number of each."""
        ...

    async def api_key(self, secret_hash: bytes) -> ApiKey | None:
        """The key with this secret, unless it is revoked."""
        ...

    async def api_keys(self) -> list[ApiKey]:
        """All keys, oldest first, revoked ones too."""
        ...

    async def add_api_key(self, key: ApiKey) -> None:
        """Keep a new key, unless there is one of this id."""
        ...

    async def revoke_api_key(self, key_id: str, now: int) -> ApiKey | None:
        """Revoke a key for good; None if there is no such key."""
        ...

    async def family(self, family_id: str) -> Family | None:
        """What came of one registration."""
        ...

    async def add_family(self, family: Family) -> None:
        """Keep a new registration."""
        ...

    async def rotate_family(self, current: bytes, changed: Family) -> bool:
        """Let this stand in its place, if this secret is still the current one and nobody has revoked it."""
        ...

    async def revoke_families(self, now: int, *, family_id: str | None = None, user_id: str | None = None) -> int:
        """End this family, or all of this user's, for good; how many had not ended yet."""
        ...

    async def letters_due(self, now: int, limit: int) -> list[Letter]:
        """Letters to be delivered now: of each user's at one address only the first that was not."""
        ...

    async def letters(self, state: LetterState | None, limit: int, cursor: str | None) -> list[Letter]:
        """Letters, newest first, from the one named by `cursor` on."""
        ...

    async def add_letters(self, letters: Sequence[Letter]) -> None:
        """Keep letters, except those that are there already."""
        ...

    async def tried(self, letter: Letter) -> None:
        """Keep what came of a try."""
        ...

    async def replay_letter(self, letter_id: str, now: int) -> Letter | None:
        """Let a letter that was delivered, or is dead, be delivered again; None if there is none."""
        ...

    async def discard_letters(self, url: str | None) -> int:
        """Give up dead letters for good, all or those to one address; how many there were."""
        ...

    async def letter_counts(self) -> tuple[int, int, int | None]:
        """How many letters wait, how many are dead, and since when (ms) the oldest waits."""
        ...

    async def sweep_letters(self, delivered_before: int, dead_before: int, limit: int) -> None:
        """Delete letters that were delivered, or died, before then."""
        ...

    async def take_turn(self, name: str, holder: str, now: int, until: int) -> bool:
        """Have this done by this holder alone until then, if nobody else has it now."""
        ...

    async def expiring(self, now: int, until: int, after: tuple[int, str], limit: int) -> list[Wallet]:
        """Wallets with credits that expire in that time, by when and whose, after that one."""
        ...

    async def put_sums(self, sums: Sequence[Sums]) -> None:
        """Keep what a process has counted, in place of what it had before."""
        ...

    async def sums(self, step: str, since: int, until: int) -> list[Sums]:
        """What all processes have counted in minutes or hours that begin in that time."""
        ...

    async def sweep_sums(self, minutes_before: int, hours_before: int) -> None:
        """Delete what is older."""
        ...

    async def session(self, hash: bytes) -> Session | None:
        """The console's session with this hash."""
        ...

    async def add_session(self, session: Session) -> None:
        """Keep a new session."""
        ...

    async def see_session(self, hash: bytes, now: int) -> None:
        """Note that a session was used now."""
        ...

    async def end_session(self, hash: bytes) -> None:
        """End a session for good."""
        ...

    async def find_users(self, prefix: str, limit: int) -> list[Wallet]:
        """Wallets whose user id begins so, in the order of code points."""
        ...

    async def signing_keys(self) -> list[SigningKey]:
        """The signing keys, in the order in which they sign; of very many the newest."""
        ...

    async def change_signing_keys(self, decide: Callable[[list[SigningKey]], list[SigningKey]]) -> list[SigningKey]:
        """Hand the signing keys to `decide`, write what it returns, and return all. One process at a time does so."""
        ...

    async def check(self, progress: Callable[[str, int, int], None]) -> list[Violation]:
        """Verify every invariant over one consistent view of the whole ledger; `progress(step, done, total)`."""
        ...

    def held(self) -> AbstractAsyncContextManager[Contents]:
        """The whole ledger, to be read. Nobody writes meanwhile; refused with `SetupError` while servers do."""
        ...

    def filled(self) -> AbstractAsyncContextManager[Contents]:
        """The whole ledger, to be written. Nobody else uses it meanwhile; all that is written is kept, or nothing."""
        ...


def open_store(
    place: Path | str, clock: Callable[[], int], next_id: Callable[[], str], *, serving: bool, batch_max: int = 256,
    read_url: str | None = None, outbox: Outbox | None = None, watch: Watch | None = None,
) -> Store:  # fmt: skip
    """The store in this SQLite file, or at this PostgreSQL address. A driver is loaded only when it is used.

    `serving` claims a file for this process: a second server is refused. A database has as many as one likes, and may
    have a replica at `read_url`. `outbox` makes the letters that are written with what they tell of; `watch` is told
    of every batch that was committed, and of the payments as they were before.
    """
    if isinstance(place, str):
        from pluct.stores.postgresql import PostgresqlStore

        return PostgresqlStore(
            place, clock, next_id, serving=serving, batch_max=batch_max, read_url=read_url, outbox=outbox,
            watch=watch,
        )  # fmt: skip
    from pluct.stores.sqlite import SqliteStore

    return SqliteStore(place, clock, next_id, serving=serving, batch_max=batch_max, outbox=outbox, watch=watch)
