"""The cashier over a real store, with Daraja's own bodies: whatever comes, in whatever order, money counts once."""

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import asyncpg
import httpx
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import Clock, opened, vend
from daraja_world import NOBODY, PATH_TOKEN, SECRETS
from pluct import payment_codes
from pluct.cashier import Cashier
from pluct.catalog import Catalog, PaymentPolicy
from pluct.commands import OpenCheckout, once
from pluct.engine import Engine
from pluct.errors import InvalidRequest, PaymentNotFound, Refusal
from pluct.gateways import MPESA, Credited, Notice, Paid, Pending, Refunded
from pluct.gateways.daraja import CONFIRMATION, RESULT, STK, make
from pluct.gateways.daraja_settings import DarajaSettings
from pluct.gateways.privacy import Privacy
from pluct.model import Checkout, Pack
from pluct.observe import Observer
from pluct.stores import Store
from pluct.tickets import HS256Signer, uuid7_source
from postgres import fresh_database

PACKS = (Pack("starter", "10 credits", "KES", 10_000, 10),)
PRIVACY = Privacy(b"of a test")
TOKEN, RECEIPT = "0" * 40, "SLK4H7R2T0"
CODE = payment_codes.make(7_000_000_007)


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    """Where the ledger is."""
    if request.param == "sqlite":
        return tmp_path / "pluct.db"
    return fresh_database(request.getfixturevalue("postgresql_url"))


def over(
    store: Store, clock: Clock, policy: PaymentPolicy | None = None, client: httpx.AsyncClient = NOBODY
) -> Cashier:
    """A cashier of M-Pesa over this store."""
    next_id = uuid7_source()
    engine = Engine(store, HS256Signer("j" * 40), Catalog({}), Observer(None), clock, next_id, 86_400)
    daraja = make(DarajaSettings(), SECRETS, "https://pay.example", client, PRIVACY, clock)
    return Cashier(engine, {"daraja": daraja}, PACKS, policy or PaymentPolicy(), PRIVACY, clock, next_id)


@asynccontextmanager
async def cashing(place: Path | str, clock: Clock, policy: PaymentPolicy | None = None) -> AsyncIterator[Cashier]:
    async with opened(place, clock) as store:
        yield over(store, clock, policy)


def checkout(clock: Clock, **more: Any) -> Checkout:
    """A checkout that was pushed for a moment ago."""
    return Checkout(
        "01a20000-0000-7000-8000-000000000001", "amina", "daraja", "starter", "KES", 10_000, 10, CODE,
        hashlib.sha256(TOKEN.encode()).digest(), "pending", clock(), clock(), "Enter your PIN.", "ws_CO_1",
        **more,
    )  # fmt: skip


async def begun(cashier: Cashier, of: Checkout) -> None:
    await cashier._store.submit(OpenCheckout(of.user_id, of))


def stk(code: int = 0, receipt: str = RECEIPT) -> bytes:
    """The callback of a push."""
    items = [
        {"Name": "Amount", "Value": 100.0}, {"Name": "MpesaReceiptNumber", "Value": receipt},
        {"Name": "TransactionDate", "Value": 20270115110000}, {"Name": "PhoneNumber", "Value": 254712345678},
    ]  # fmt: skip
    said = {"CheckoutRequestID": "ws_CO_1", "ResultCode": code, "ResultDesc": "said"}
    return msgspec.json.encode(
        {"Body": {"stkCallback": said | ({"CallbackMetadata": {"Item": items}} if code == 0 else {})}}
    )


def c2b(code: str, amount: str = "100.00") -> bytes:
    """The same money, as C2B tells of it."""
    return msgspec.json.encode(
        {"TransID": RECEIPT, "TransAmount": amount, "BillRefNumber": code, "MSISDN": "254712345678",
         "TransTime": "20270115110000", "BusinessShortCode": "174379"}
    )  # fmt: skip


REVERSAL = msgspec.json.encode(
    {"Result": {"ResultCode": 0, "ConversationID": "AG_1", "ResultParameters": {"ResultParameter": [
        {"Key": "OriginalTransactionID", "Value": RECEIPT}, {"Key": "Amount", "Value": 100}]}}}
)  # fmt: skip
AT = 1_800_000_000_000
QUERY = Notice("stkquery:1", "stkquery", b"{}", Paid(MPESA, None, None, "KES", checkout_id=checkout(Clock()).id))
LINE = Notice(
    "statement:1",
    "statement",
    b"{}",
    Paid(MPESA, RECEIPT, 10_000, "KES", code=f"{CODE[:4]} {CODE[4:]}", typed=True, at=AT),
)

#: What may be told, and by whom.
TELLINGS: dict[str, Any] = {
    "callback": (STK, TOKEN, stk()),
    "failure": (STK, TOKEN, stk(1032)),
    "typed": (CONFIRMATION, PATH_TOKEN, c2b(f"{CODE[:4]}-{CODE[4:]}".lower())),
    "mistyped": (CONFIRMATION, PATH_TOKEN, c2b("AMINA")),
    "query": QUERY,
    "line": LINE,
    "reversal": (RESULT, PATH_TOKEN, REVERSAL),
    "assign": "assign",
}


async def tell(cashier: Cashier, name: str) -> bool:
    """Tell it; False if an operator has to try again later."""
    telling = TELLINGS[name]
    if isinstance(telling, Notice):
        await cashier.hear("daraja", telling)
    elif telling == "assign":
        found = await cashier._store.find_payment(MPESA, RECEIPT)
        try:
            if found is None:
                raise PaymentNotFound
            await cashier.assign(found.id, "amina", "showed the message", "ops")
        except Refusal:
            return False
    else:
        hook, token, body = telling
        await cashier.receive("daraja", hook, token, {}, body, "")
    return True


def credited(told: set[str]) -> bool:
    """Whether, when all is said, the money is amina's."""
    return bool(told & {"callback", "typed", "query", "line"}) or {"mistyped", "assign"} <= told


FOREVER = {"max_examples": 60, "deadline": None, "database": None, "print_blob": True}


@pytest.mark.parametrize("which", ["sqlite", "postgresql"])
def test_in_whatever_order(
    which: str, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> None:
    """Each told once or more, in every order, the engine reopened between any two: one mint, and the same end."""
    server = request.getfixturevalue("postgresql_url") if which == "postgresql" else ""

    @settings(suppress_health_check=list(HealthCheck), **FOREVER)
    @given(st.lists(st.sampled_from([*TELLINGS]), min_size=1, max_size=9), st.integers(0, 511))
    def hold(order: list[str], cuts: int) -> None:
        if {"assign", "mistyped"} & set(order) and "callback" not in order:
            order = [*order, "callback"]  # else what names no checkout, and what is only queried, could be two payments
        place = fresh_database(server) if server else tmp_path_factory.mktemp("order") / "pluct.db"
        anyio.run(told_in_order, place, order, cuts)

    hold()


async def told_in_order(place: Path | str, order: list[str], cuts: int) -> None:
    clock = Clock(AT)
    async with cashing(place, clock) as cashier:
        await begun(cashier, checkout(clock))
    again, at = [], 0
    while at < len(order):
        async with cashing(place, clock) as cashier:
            while at < len(order):
                again += [] if await tell(cashier, order[at]) else [order[at]]
                at += 1
                if cuts >> at & 1:
                    break
    async with cashing(place, clock) as cashier:
        for name in again:
            await tell(cashier, name)
        told = set(order)
        known = bool(told & {"callback", "typed", "line", "mistyped"})  # the receipt
        back = "reversal" in told and known
        wallet = await cashier._engine.balance("amina")
        assert (wallet.available, wallet.debt) == ((10, 0) if credited(told) and not back else (0, 0)), order
        found = await cashier._store.payments(None, None, 50, None)
        assert sum(payment.minted - payment.clawed for payment in found) == wallet.available
        assert len([payment for payment in found if payment.settled]) <= 1 + ("query" in told), order
        kept = await cashier._store.checkout(checkout(clock).id)
        assert kept is not None
        if told & {"callback", "typed", "query", "line"}:
            assert kept.state == "paid", order
        elif "failure" in told:
            assert kept.state == "failed"
        assert await cashier._store.check(lambda *step: None) == []


@pytest.mark.anyio
async def test_a_push_of_which_nothing_is_heard_is_given_up(place: Path | str) -> None:
    """Asked after 75 s, then ever later; then it is expired, says so, and money still counts."""
    clock = Clock(AT)
    async with cashing(place, clock) as cashier:
        asked: list[int] = []

        class Silent(type(cashier.gateways["daraja"])):  # type: ignore[misc]
            async def ask(self, of: Checkout) -> Notice:
                asked.append((clock() - AT) // 1000)
                return Notice(f"q{of.asked}", "stkquery", b"{}", Pending(of.id))

        daraja: Any = cashier.gateways["daraja"]
        daraja.__class__ = Silent
        await begun(cashier, checkout(clock, due_at=AT + 75_000))
        for _ in range(3600):
            await cashier.sweep()
            clock.move(1)
        assert asked == [75, 75 + 120, 75 + 120 + 300, 75 + 120 + 300 + 900]
        kept = await cashier.checkout(checkout(clock).id)
        assert kept.state == "expired" and "will still count" in kept.message and kept.due_at is None
        await cashier.receive("daraja", STK, TOKEN, {}, stk(), "")
        assert (await cashier.checkout(kept.id)).state == "paid"


@pytest.mark.anyio
async def test_a_question_is_asked_by_one_process(place: Path | str) -> None:
    """Two that sweep at once ask once."""
    clock = Clock(AT)
    async with cashing(place, clock) as cashier:
        asked: list[str] = []

        class Counting(type(cashier.gateways["daraja"])):  # type: ignore[misc]
            async def ask(self, of: Checkout) -> None:
                asked.append(of.id)

        daraja: Any = cashier.gateways["daraja"]
        daraja.__class__ = Counting
        await begun(cashier, checkout(clock, due_at=AT))
        other = over(cashier._store, clock)
        other.gateways = cashier.gateways
        async with anyio.create_task_group() as group:
            group.start_soon(cashier.sweep)
            group.start_soon(other.sweep)
        assert len(asked) == 1


@pytest.mark.anyio
async def test_two_payments_of_one_name_are_not_guessed_between(place: Path | str) -> None:
    """Two gateways may use the same receipt: an operator is asked which is meant, with both ids."""
    async with cashing(place, Clock()) as cashier:
        for number, namespace in enumerate((MPESA, "daraja")):
            paid = Paid(namespace, RECEIPT, 10_000, "KES", typed=True)
            await cashier.hear("daraja", Notice(f"told:{number}", "statement", b"{}", paid))
            if number == 0:
                assert (await cashier.named(RECEIPT)).namespace == (await cashier.named(RECEIPT.lower())).namespace
        both = [payment for payment, _ in (await cashier.payments("unmatched", None, 10, None))[0]]
        with pytest.raises(InvalidRequest) as refused:
            await cashier.named(RECEIPT)
        assert len(both) == 2 and all(payment.id in refused.value.sentence for payment in both)
        assert await cashier.named(both[0].id) == both[0]
        with pytest.raises(PaymentNotFound):
            await cashier.named("SLK4H7R2T9")


@pytest.mark.anyio
async def test_a_back_offices_wish_is_granted_once(place: Path | str) -> None:
    """By its reference; another wish under the same one is kept, and moves nothing."""
    clock = Clock(AT)
    async with cashing(place, clock) as cashier:
        first = Notice("msg_1", "credits.add", b'{"a":1}', Credited("amina", 10, "msg_1"))
        other = Notice("msg_1", "credits.add", b'{"a":2}', Credited("juma", 10, "msg_1"))
        for notice in (first, first, other, first):
            await cashier.hear("standard", notice)
        assert (await cashier._engine.balance("amina")).available == 10
        assert (await cashier._engine.balance("juma")).available == 0


@pytest.mark.anyio
@pytest.mark.parametrize("policy", ["debt", "floor", "freeze"])
async def test_what_goes_back_when_it_is_spent(place: Path | str, policy: Any) -> None:
    """Owed; or lost; or owed, and nothing is vended until it is repaid."""
    clock = Clock(AT)
    async with cashing(place, clock, PaymentPolicy("packs", policy)) as cashier:
        await begun(cashier, checkout(clock))
        await cashier.receive("daraja", STK, TOKEN, {}, stk(), "")
        for _ in range(7):
            await cashier._store.submit(vend("amina"))
        await cashier.receive("daraja", RESULT, PATH_TOKEN, {}, REVERSAL, "")
        await cashier.receive("daraja", RESULT, PATH_TOKEN, {}, REVERSAL, "")
        wallet = await cashier._engine.balance("amina")
        assert (wallet.available, wallet.debt) == (0, 0 if policy == "floor" else 7)
        assert bool(wallet.frozen) is (policy == "freeze")
        (payment,) = await cashier._store.payments(None, None, 5, None)
        assert (payment.state, payment.clawed, payment.lost) == ("refunded", 10, 7 if policy == "floor" else 0)
        assert await cashier._store.check(lambda *step: None) == []


@pytest.mark.anyio
async def test_a_refund_keeps_its_currency_on_the_way(place: Path | str) -> None:
    """In another than the payment's it takes nothing back, whatever its number; the payment says so."""
    clock = Clock(AT)
    async with cashing(place, clock) as cashier:
        await begun(cashier, checkout(clock))
        await tell(cashier, "callback")
        for currency, state in (("UGX", "paid"), ("KES", "part_refunded")):
            said = Refunded(MPESA, RECEIPT, 4_000, currency)
            await cashier.hear("daraja", Notice(f"r:{currency}", "reversal", b"{}", said))
            payment = await cashier._store.find_payment(MPESA, RECEIPT)
            assert payment is not None and payment.state == state and "4000 UGX" in payment.note


@pytest.mark.anyio
async def test_money_is_known_by_the_checkouts_own_reference(place: Path | str) -> None:
    """Where nothing else says whose it is; at another gateway it is another's."""
    clock = Clock(AT)
    async with cashing(place, clock) as cashier:
        await begun(cashier, checkout(clock))
        for gateway, reference, state in (
            ("stripe", "ws_CO_1", "unmatched"), ("daraja", "ws_CO_2", "unmatched"), ("daraja", "ws_CO_1", "paid"),
        ):  # fmt: skip
            name = f"{gateway} {reference}"
            said = Paid(MPESA, name, 10_000, "KES")
            await cashier.hear(gateway, Notice(name, "paid", b"{}", said, checkout_reference=reference))
            payment = await cashier._store.find_payment(MPESA, name)
            assert payment is not None and payment.state == state
        assert (await cashier.checkout(checkout(clock).id)).state == "paid"


@pytest.mark.anyio
async def test_a_checkout_paid_with_nothing_is_looked_at(place: Path | str) -> None:
    """It does not go on waiting, and the money that comes after all counts."""
    clock = Clock(AT)
    async with cashing(place, clock) as cashier:
        await begun(cashier, checkout(clock))
        for amount, state, note in ((0, "review", "Nothing was paid."), (10_000, "paid", "")):
            said = Paid(MPESA, RECEIPT, amount, "KES", checkout_id=checkout(clock).id)
            await cashier.hear("daraja", Notice(f"paid {amount}", "paid", b"{}", said))
            payment = await cashier._store.find_payment(MPESA, RECEIPT)
            assert payment is not None and (payment.state, payment.note) == (state, note)
            assert (await cashier.checkout(checkout(clock).id)).state == state


# People


async def all_that_is_kept(place: Path | str) -> bytes:
    """Every file of a SQLite ledger; every column of every table in PostgreSQL, bytes as they are."""
    if isinstance(place, Path):
        return b"".join(found.read_bytes() for found in place.parent.iterdir() if found.is_file())
    connection = await asyncpg.connect(place)
    try:
        tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        rows = [row for (name,) in tables for row in await connection.fetch(f'SELECT * FROM "{name}"')]
    finally:
        await connection.close()
    return b"\n".join(each if isinstance(each, bytes) else str(each).encode() for row in rows for each in row)


@pytest.mark.parametrize("start", ["now", "before"])
@pytest.mark.anyio
async def test_no_table_holds_the_number_of_who_paid(place: Path | str, start: str) -> None:
    """Though Daraja's id of the push ends with it: pushed, asked about and paid, also when that is told too early."""
    clock, asked, phone = Clock(), list[dict[str, Any]](), "712345678"
    request_id = f"ws_CO_20261130235625001{phone}"
    items = [{"Name": "Amount", "Value": 100}, {"Name": "MpesaReceiptNumber", "Value": RECEIPT},
             {"Name": "PhoneNumber", "Value": int("254" + phone)}]  # fmt: skip

    async def call_back() -> None:
        said = {"CheckoutRequestID": request_id, "ResultCode": 0, "CallbackMetadata": {"Item": items}}
        token = next(each for each in asked if "CallBackURL" in each)["CallBackURL"].rpartition("/")[2]
        await cashier.receive("daraja", STK, token, {}, msgspec.json.encode({"Body": {"stkCallback": said}}), "")

    async def daraja(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(200, json={"access_token": "t", "expires_in": "3599"})
        asked.append(msgspec.json.decode(request.content))
        if start == "before" and "CallBackURL" in asked[-1]:
            await call_back()
        busy = {"errorCode": "500.001.1001", "errorMessage": "The transaction is being processed"}
        query = busy if "CallBackURL" not in asked[-1] else {"ResponseCode": "0"}
        return httpx.Response(200, json=query | {"CheckoutRequestID": request_id})

    async with opened(place, clock) as store, httpx.AsyncClient(transport=httpx.MockTransport(daraja)) as client:
        cashier = over(store, clock, client=client)
        bought = await cashier.buy("amina", "starter", "daraja", "0" + phone, "a key of hers")
        if start == "now":
            clock.move(80)
            assert await cashier.sweep() == 1 and asked[1]["CheckoutRequestID"] == request_id
            await call_back()
        found = await cashier.checkout(bought.checkout_id)
        assert found.state == "paid" and str(found.gateway_reference).startswith("ws_CO_20261130235625001~")
        assert await store.checkout_by_reference("daraja", str(found.gateway_reference)) == found
        kept = await all_that_is_kept(place)
    kept += await all_that_is_kept(place)
    assert RECEIPT.encode() in kept and b"2547*****678" in kept and phone.encode() not in kept
    guessed = once("checkout", "amina", "a key of hers", "amina", "starter", "daraja", "254" + phone)
    assert guessed.key in kept and guessed.fingerprint not in kept  # whoever tries all numbers finds none
