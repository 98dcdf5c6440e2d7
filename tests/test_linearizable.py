"""Two servers over the same wallets under random commands: the journal's order explains everything that was answered.

Every request is written down with when it was asked and answered. Then each wallet's journal, entry by entry, is
played to the oracle: what it answers must be what was answered. The order must fit real time too: a request that was
answered before another was asked comes before it, and a refusal or a balance must have been true at some moment
between question and answer.
"""

import asyncio
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import httpx
import pytest

from books import rows
from conftest import WEBHOOK_SECRET, Pluct, until
from oracle import Oracle
from pluct.model import Entry
from pluct.stores.rows import ENTRY
from postgres import children, fresh_database

TOML = """
[actions.transcribe]
cost = 2
cost_max = 9
settle = "report"
ttl_seconds = 3600
report_seconds = 3600
[actions.quick]
settle = "redeem"
ttl_seconds = 3600
"""
USERS = [f"user {number}" for number in range(6)]
CLIENTS, REQUESTS = 24, 40
SETTLES = {"default": "vend", "quick": "redeem", "transcribe": "report"}
GRACE_SECONDS = 86_400

Make = Callable[..., Pluct]


@pytest.fixture
def pair(make_pluct: Make, postgresql_url: str) -> list[Pluct]:
    """Two servers over one empty database."""
    url = fresh_database(postgresql_url)
    both = [make_pluct(f"engine-{number}", TOML, DATABASE_URL=url) for number in (1, 2)]
    with ThreadPoolExecutor() as pool:
        list(pool.map(Pluct.start, both))
    return both


@dataclass
class Asked:
    """A request: of whom, what for, when, and what came of it."""

    verb: str
    user: str
    body: dict[str, Any]
    asked: float
    status: int = 0
    answer: dict[str, Any] = field(default_factory=dict)
    answered: float = float("inf")
    replayed: bool = False


@dataclass
class Client:
    """Asks at random, one request after the other, now this server and now that one."""

    http: httpx.AsyncClient
    urls: list[str]
    keys: dict[str, dict[str, str]]
    dice: random.Random
    tickets: list[tuple[str, dict[str, Any]]]  #: everyone's, with their users
    log: list[Asked]

    async def ask(self, verb: str, user: str, method: str, path: str, role: str, body: dict[str, Any]) -> Asked:
        told = Asked(verb, user, body, time.monotonic())
        self.log.append(told)
        url = self.dice.choice(self.urls) + path
        headers = self.keys.get(role, {})
        if method == "GET":
            answer = await self.http.get(url, params=body, headers=headers)
        else:
            answer = await self.http.post(url, json=body, headers=headers)
        told.answered = time.monotonic()
        told.status, told.answer = answer.status_code, answer.json()
        told.replayed = "idempotency-replayed" in answer.headers
        return told

    async def live(self) -> None:
        verbs = [self.grant] * 3 + [self.vend] * 8 + [self.use] * 7 + [self.adjust] * 2 + [self.look] * 3
        for number in range(REQUESTS):
            await self.dice.choice(verbs)(self.dice.choice(USERS), f"{self.dice.random()}-{number}")

    async def grant(self, user: str, name: str) -> None:
        body = {"userId": user, "amount": self.dice.randint(1, 12), "reference": name}
        if self.dice.random() < 0.5:
            body |= {"category": "promotional", "priority": self.dice.choice([0, 50, 90])}
        await self.ask("grant", user, "POST", "/v1/credits/add", "mint", body)

    async def vend(self, user: str, name: str) -> None:
        """Without a key; with one; and with one several times at once."""
        body: dict[str, Any] = {"userId": user, "action": self.dice.choice(["default", "quick", "transcribe"])}
        if body["action"] == "transcribe":
            body["cost"] = self.dice.randint(2, 9)
        times = self.dice.choice([0, 0, 1, 1, 3])
        if times:
            body["clientRequestId"] = name
        calls = (self.ask("vend", user, "POST", "/v1/vend-token", "user", body) for _ in range(max(times, 1)))
        for sold in await asyncio.gather(*calls):
            if sold.status == 200 and not sold.replayed:
                self.tickets.append((user, sold.answer))

    async def use(self, user: str, name: str) -> None:
        """One of the latest tickets, which others may be using at the same moment."""
        if self.tickets:
            user, ticket = self.dice.choice(self.tickets[-12:])
            verb = self.dice.choice(["redeem", "redeem", "capture", "void"])
            body: dict[str, Any] = {"redeem": {"token": ticket["token"]}, "void": {"reason": name}}.get(verb, {})
            if verb == "capture" and self.dice.random() < 0.7:
                body = {"amount": self.dice.randint(1, ticket["cost"])}
            path = "/v1/tickets/redeem" if verb == "redeem" else f"/v1/tickets/{ticket['ticketId']}/{verb}"
            told = await self.ask(verb, user, "POST", path, "service", body)
            told.body = body | {"ticketId": ticket["ticketId"]}

    async def adjust(self, user: str, name: str) -> None:
        body = {"amount": self.dice.choice([-9, -5, -2, 3]), "reason": name}
        await self.ask("adjust", user, "POST", f"/v1/wallets/{user}/adjustments", "operator", body)

    async def look(self, user: str, name: str) -> None:
        await self.ask("look", user, "GET", "/v1/credits/balance", "", {"userId": user})


async def trade(pair: list[Pluct], keys: dict[str, dict[str, str]]) -> list[Asked]:
    """All clients at once; everything they asked."""
    log: list[Asked] = []
    tickets: list[tuple[str, dict[str, Any]]] = []
    async with httpx.AsyncClient(timeout=30, limits=httpx.Limits(max_connections=3 * CLIENTS)) as http:
        urls = [server.url for server in pair]
        clients = (Client(http, urls, keys, random.Random(number), tickets, log) for number in range(CLIENTS))
        await asyncio.gather(*(client.live() for client in clients))
    return log


@dataclass
class Step:
    """What one command wrote into a wallet's journal: one entry, or two."""

    verb: str
    entries: list[Entry]
    asked: Asked

    @property
    def after(self) -> tuple[int, int]:
        """Available and held once it was done."""
        return self.entries[-1].available_after, self.entries[-1].held_after


def journal(place: str, user: str) -> list[Entry]:
    found = rows(place, f"SELECT {ENTRY} FROM entries WHERE user_id = '{user}' ORDER BY number")
    entries = [Entry(*row) for row in found]
    assert [entry.number for entry in entries] == list(range(1, len(entries) + 1))
    return entries


def steps(entries: list[Entry], settles: dict[str, str], log: list[Asked]) -> list[Step]:
    """Each command with its entries and the one request that it was done for."""
    done = [asked for asked in log if asked.status == 200 and not asked.replayed]
    of_ticket = {(a.verb, a.body["ticketId"]): a for a in done if a.verb in ("redeem", "capture", "void")}
    of_ticket |= {("vend", a.answer["ticketId"]): a for a in done if a.verb == "vend"}
    of_grant = {a.answer["grantId"]: a for a in done if a.verb == "grant"}
    of_reason = {a.body["reason"]: a for a in done if a.verb == "adjust"}
    found: list[Step] = []
    for entry in entries:
        ticket = entry.ticket_id or ""
        match entry.kind:
            case "return" if found[-1].verb == "capture" and found[-1].entries[0].ticket_id == ticket:
                found[-1].entries.append(entry)  # the rest of what was held
                continue
            case "grant":
                verb, asked = "grant", of_grant.pop(entry.grant_id or "")
            case "adjust":
                verb, asked = "adjust", of_reason.pop(entry.reason or "")
            case "vend" | "hold":
                verb, asked = "vend", of_ticket.pop(("vend", ticket))
            case "capture":
                verb = "redeem" if settles[ticket] == "redeem" else "capture"
                asked = of_ticket.pop((verb, ticket))
            case _:
                verb, asked = "void", of_ticket.pop(("void", ticket))
        found.append(Step(verb, [entry], asked))
    left = [asked for (verb, ticket), asked in of_ticket.items() if verb != "redeem" or settles[ticket] == "redeem"]
    assert not left and not of_grant and not of_reason, "what was answered is in the journal"
    return found


def play(user: str, found: list[Step]) -> Oracle:
    """Have the oracle do the same in the journal's order, and hold its answers against those that were given."""
    oracle = Oracle(GRACE_SECONDS)
    for step in found:
        entry, asked, answer = step.entries[0], step.asked, step.asked.answer
        oracle.now, ticket, amount = entry.at, entry.ticket_id or "", entry.amount
        match step.verb:
            case "grant":
                terms = asked.body.get("category", "paid"), asked.body.get("priority", 50)
                said = oracle.fund(user, entry.grant_id or "", amount, *terms, None, None)
                assert said == ("granted", answer["grantId"], answer["amount"], answer["newBalance"])
            case "vend":
                said = oracle.vend(user, ticket, amount, SETTLES[answer["action"]], 3600, 3600, None)
                assert said == ("vended", answer["ticketId"], answer["balanceAfter"])
            case "adjust":
                signed = asked.body["amount"]
                said = oracle.adjust(user, entry.grant_id or "", signed)
                assert said == ("adjusted", signed, answer["availableAfter"]) and answer["number"] == entry.number
            case verb:
                act = {"redeem": oracle.redeem, "void": oracle.void}.get(verb, partial(capture, oracle, amount))
                state, _, *amounts = act(user, ticket)
                assert (answer["state"], [answer["capturedAmount"], answer["returnedAmount"]]) == (state, amounts)
        assert step.after == (len(oracle.live(user)), oracle.held(user)), (step, asked)
    return oracle


def capture(oracle: Oracle, amount: int, user: str, ticket: str) -> Any:
    """Capture, and redeem before it if nothing has yet, which writes no entry."""
    if oracle.tickets[ticket].redeemed_at is None:
        assert isinstance(oracle.redeem(user, ticket), tuple)
    return oracle.capture(user, ticket, amount)


def in_real_time(found: list[Step]) -> None:
    """Nothing comes in the journal before what had been answered when it was asked."""
    latest = 0.0
    for step in found:
        assert step.asked.answered > latest, step
        latest = max(latest, step.asked.asked)


def moments(found: list[Step], asked: Asked) -> list[tuple[int, int]]:
    """Every state of the wallet that a request may have met."""
    first = max((at for at, step in enumerate(found, 1) if step.asked.answered < asked.asked), default=0)
    last = min((at for at, step in enumerate(found) if step.asked.asked > asked.answered), default=len(found))
    return [(0, 0), *(step.after for step in found)][first : last + 1]


def explained(asked: Asked, found: list[Step], redeems: dict[str, Asked]) -> None:
    """A balance, or a no, was true at some moment while it was asked for."""
    if asked.verb == "look":
        assert (asked.answer["available"], asked.answer["held"]) in moments(found, asked), asked
        return
    ticket = asked.body.get("ticketId", "")
    redeem = redeems.get(ticket)
    settled = [step for step in found if step.entries[0].ticket_id == ticket and step.entries[0].kind != "hold"]
    match asked.answer["code"]:
        case "insufficient_credits":
            wanted = asked.body.get("cost", 1) if asked.verb == "vend" else -asked.body["amount"]
            assert min(available for available, _ in moments(found, asked)) < wanted, asked
        case "ticket_already_redeemed":
            assert redeem is not None and redeem.asked < asked.answered, asked
        case "ticket_not_redeemed":
            assert redeem is None or redeem.answered > asked.asked, asked
        case "ticket_already_settled":
            assert [step for step in settled if step.asked.asked < asked.answered], asked
        case code:
            raise AssertionError(code)


def test_every_outcome_is_explained_by_the_journals_order(pair: list[Pluct]) -> None:
    """Grants, vends, twins, adjustments, redeems, captures and voids of the same wallets, on two servers at once."""
    keys = {role: pair[0].key(role) for role in ("mint", "service", "operator")}
    log = asyncio.run(trade(pair, keys))
    place = pair[0].environment["DATABASE_URL"]
    settles = dict(rows(place, "SELECT id, settle FROM tickets"))
    lots = dict(rows(place, "SELECT user_id, lots FROM wallets"))
    refusals: Counter[str] = Counter()
    for user in USERS:
        mine = [asked for asked in log if asked.user == user]
        found = steps(journal(place, user), settles, mine)
        oracle = play(user, found)
        assert oracle.lots(user) == [
            (grant, left, category, priority, float("inf"))
            for _, grant, left, category, priority, _ in json.loads(lots[user])
        ]
        in_real_time(found)
        redeems = {a.body["ticketId"]: a for a in mine if a.verb == "redeem" and a.status == 200 and not a.replayed}
        for asked in mine:
            if asked.verb == "look" or asked.status != 200:
                explained(asked, found, redeems)
                refusals[asked.answer.get("code", "look")] += 1
    replays(log)
    assert set(refusals) == {
        "look", "insufficient_credits", "ticket_already_redeemed", "ticket_already_settled", "ticket_not_redeemed",
    }  # fmt: skip
    assert pair[1].json("check") == {"ok": True, "violations": []}


def replays(log: list[Asked]) -> None:
    """Twins: one was sold, the others got the same ticket, whoever they asked."""
    twins: dict[str, list[Asked]] = {}
    for asked in log:
        if asked.verb == "vend" and asked.status == 200 and "clientRequestId" in asked.body:
            twins.setdefault(asked.body["clientRequestId"], []).append(asked)
    for each in twins.values():
        assert len({asked.answer["token"] for asked in each}) == 1
        assert [asked.replayed for asked in each].count(False) == 1
    assert max(map(len, twins.values())) > 1


# The sweep in several processes at once


def test_each_expiry_happens_once(make_pluct: Make, postgresql_url: str) -> None:
    """Six processes look for what is due, in the same moment, and all find the same; the journal has it once."""
    url, customers = fresh_database(postgresql_url), 100
    toml = 'returned_grace_seconds = 1\n[actions.default]\nsettle = "redeem"\nttl_seconds = 4\n'
    pair = [make_pluct(f"engine-{number}", toml, DATABASE_URL=url) for number in (1, 2)]
    for server in pair:
        server.start("--workers", "3")
    end = datetime.now(UTC) + timedelta(seconds=4)

    async def fill() -> None:
        headers, limits = {"x-webhook-secret": WEBHOOK_SECRET}, httpx.Limits(max_connections=16)
        async with httpx.AsyncClient(base_url=pair[0].url, headers=headers, timeout=30, limits=limits) as http:

            async def one(user: str) -> None:
                grant = {"userId": user, "amount": 3, "expiresAt": end.isoformat()}
                assert (await http.post("/v1/credits/add", json=grant)).status_code == 200
                assert (await http.post("/v1/vend-token", json={"userId": user})).status_code == 200

            await asyncio.gather(*(one(f"u{number}") for number in range(customers)))

    asyncio.run(fill())
    processes = [pid for server in pair if server.process for pid in children(server.process.pid)]
    for pid in processes:
        os.kill(pid, signal.SIGSTOP)
    until(lambda: datetime.now(UTC) > end, 10)
    for pid in processes:
        os.kill(pid, signal.SIGCONT)
    until(lambda: rows(url, "SELECT count(*) FROM wallets WHERE available + held > 0") == [(0,)], 20)
    kinds = rows(url, "SELECT user_id, string_agg(kind, ' ' ORDER BY number) FROM entries GROUP BY 1")
    assert {kind for _, kind in kinds} == {"grant hold expire return expire"} and len(kinds) == customers
    assert pair[1].json("check") == {"ok": True, "violations": []}
