"""Events out: told with their cause or not at all, to the right place, signed, in order, until they are taken."""

import json
import signal
import sqlite3
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from standardwebhooks import Webhook

from conftest import Pluct, new_id, refused, until
from paying import paying
from pluct.deliveries import is_public
from postgres import fresh_database

Make = Callable[..., Pluct]
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
SECRETS = {"PLUCT_WEBHOOK_OUT_SECRET": SECRET}
ACTIONS = '[actions.slow]\nsettle = "report"\ncost = 3\n'


class Receiver:
    """A server that takes events, and does with them what a test says."""

    def __init__(self) -> None:
        self.got: list[dict[str, Any]] = []
        self.heads: list[dict[str, str]] = []
        self.answer: Callable[[dict[str, Any]], int] = lambda _: 204
        self.open = threading.Event()
        self.open.set()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["content-length"]))
                receiver.open.wait(20)
                event = json.loads(content)
                status = receiver.answer(event)
                if status < 300:
                    Webhook(SECRET).verify(content, {name.lower(): value for name, value in self.headers.items()})
                    receiver.heads.append(dict(self.headers.items()))
                    receiver.got.append(event)
                self.send_response(status)
                if status == 302:
                    self.send_header("location", "http://127.0.0.1:9/elsewhere")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}/events"

    def of(self, user_id: str) -> list[dict[str, Any]]:
        """What was told of this user, in its order."""
        return [event for event in self.got if event["data"].get("userId") == user_id]

    def kinds(self, user_id: str) -> list[str]:
        return [event["type"] for event in self.of(user_id)]

    def close(self) -> None:
        self.open.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


def toml(receiver: Receiver, more: str = "") -> str:
    return f'{ACTIONS}[[webhooks]]\nurl = "{receiver.url}"\nallow_private = true\n{more}'


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, make_pluct: Make, receiver: Receiver) -> Pluct:
    """A server that tells the receiver everything, over either database; two processes of it over PostgreSQL."""
    place = {}
    if request.param == "postgresql":
        place = {"DATABASE_URL": fresh_database(request.getfixturevalue("postgresql_url"))}
    pluct = make_pluct(toml=toml(receiver), **SECRETS, **place)
    pluct.start(*(["--workers", "2"] if place else []))
    return pluct


def test_what_happens_to_credits_is_told(engine: Pluct, receiver: Receiver) -> None:
    """Granted, captured, returned, low: in the order of the history, signed, and each once."""
    user, service = new_id(), engine.key("service")
    engine.fund(user, 4, reference=new_id())
    engine.post("/vend-token", {"userId": user})
    vended = engine.post("/v1/vend-token", {"userId": user, "action": "slow"}).json()
    engine.post("/v1/tickets/redeem", {"token": vended["token"]}, service)
    engine.post(f"/v1/tickets/{vended['ticketId']}/capture", {"amount": 1}, service)
    wanted = ["credits.granted", "ticket.captured", "credits.low", "ticket.captured", "ticket.returned"]
    assert until(lambda: len(receiver.of(user)) >= len(wanted), 15) and receiver.kinds(user) == wanted
    granted, captured, low, _, returned = receiver.of(user)
    assert (granted["data"]["amount"], granted["data"]["available"]) == (4, 4)
    assert captured["data"]["available"] == 3 and low["data"] == {"userId": user, "available": 0, "below": 1}
    assert (returned["data"]["ticketId"], returned["data"]["amount"]) == (vended["ticketId"], 2)
    assert granted["timestamp"].endswith("Z")
    listed = engine.client.get("/v1/events", headers=engine.key("operator")).json()["events"]
    assert {event["state"] for event in listed if event.get("userId") == user} == {"delivered"}
    assert {head["webhook-id"] for head in receiver.heads} >= {event["id"] for event in listed}


def test_a_refusal_tells_nothing(engine: Pluct, receiver: Receiver) -> None:
    """Nothing was changed; nor is a replay told again."""
    user, key = new_id(), {"Idempotency-Key": "k"}
    assert engine.post("/v1/vend-token", {"userId": user}).status_code == 402
    engine.fund(user, 5)
    for _ in range(3):
        engine.post("/v1/vend-token", {"userId": user}, key)
    engine.fund(user, 1)
    assert until(lambda: len(receiver.of(user)) >= 3, 15)
    assert receiver.kinds(user) == ["credits.granted", "ticket.captured", "credits.granted"]


def test_a_user_s_events_wait_for_each_other(engine: Pluct, receiver: Receiver) -> None:
    """One that is not taken holds up those after it, of that user alone; it is tried again."""
    slow, quick = new_id(), new_id()
    refusing = {slow}
    receiver.answer = lambda event: 500 if event["data"].get("userId") in refusing else 200
    for user in (slow, quick):
        engine.fund(user, 2)
        engine.post("/vend-token", {"userId": user})
    assert until(lambda: len(receiver.of(quick)) == 2, 15)
    operator = engine.key("operator")

    def waiting() -> list[dict[str, Any]]:
        found = engine.client.get("/v1/events", params={"state": "pending"}, headers=operator).json()["events"]
        return [event for event in found if event["userId"] == slow]

    tried = until(lambda: [event for event in waiting() if event["tries"]], 15)
    assert [(event["type"], event["answer"]) for event in tried] == [("credits.granted", "It answered 500.")]
    assert len(waiting()) == 2 and tried[0]["nextTryAt"] > tried[0]["at"]
    refusing.clear()
    assert until(lambda: len(receiver.of(slow)) == 2, 20)  # five seconds after the first try
    assert receiver.kinds(slow) == ["credits.granted", "ticket.captured"]


def test_many_users_at_once(engine: Pluct, receiver: Receiver) -> None:
    """Everything arrives, each user's in order, by one process at a time and so each once."""
    users = [new_id() for _ in range(12)]
    for user in users:
        engine.fund(user, 100)
    for _ in range(5):
        for user in users:
            engine.post("/vend-token", {"userId": user})
    assert until(lambda: sum(len(receiver.of(user)) for user in users) >= 72, 60)
    left: dict[str, list[int]] = defaultdict(list)
    for user in users:
        left[user] = [event["data"]["available"] for event in receiver.of(user)]
    assert all(found == [100, 99, 98, 97, 96, 95] for found in left.values()), left


def test_a_crash_loses_nothing(make_pluct: Make, receiver: Receiver) -> None:
    """What was acknowledged is told, after kill -9 before it was."""
    receiver.open.clear()
    engine = make_pluct(toml=toml(receiver), **SECRETS)
    engine.start()
    user = engine.funded(3)
    for _ in range(3):
        assert engine.post("/vend-token", {"userId": user}).status_code == 200
    engine.stop(signal.SIGKILL)
    receiver.open.set()
    engine.start()
    wanted = ["credits.granted", "ticket.captured", "ticket.captured", "ticket.captured", "credits.low"]
    assert until(lambda: set(wanted) <= set(receiver.kinds(user)) and len(receiver.of(user)) >= 5, 90)
    ids = [head["webhook-id"] for head in receiver.heads]
    firsts = [event for at, event in enumerate(receiver.of(user)) if ids[at] not in ids[:at]]
    assert [event["type"] for event in firsts] == wanted


def test_a_command_tells_too(make_pluct: Make, receiver: Receiver) -> None:
    """What is done in the terminal is told by the server."""
    engine = make_pluct(toml=toml(receiver, 'events = ["credits.granted"]\n'), **SECRETS)
    engine.start()
    user = new_id()
    engine.run("credits", "grant", user, "5", "--reason", "sorry")
    engine.post("/vend-token", {"userId": user})
    engine.run("credits", "grant", user, "6", "--reason", "sorry")
    assert until(lambda: len(receiver.of(user)) == 2, 15)
    assert receiver.kinds(user) == ["credits.granted"] * 2


def test_credits_that_end_soon_are_told_once(make_pluct: Make, receiver: Receiver) -> None:
    """Of each lot, also after a restart; not of those that live longer."""
    engine = make_pluct(toml=toml(receiver, 'events = ["credits.expiring"]\nexpiring_days = 2\n'), **SECRETS)
    user = new_id()
    for when, amount in (("12h", "5"), ("30d", "6"), ("40h", "7")):
        engine.run("credits", "grant", user, amount, "--reason", "gift", "--expires", when)
    for _ in range(2):
        engine.start()
        assert until(lambda: len(receiver.of(user)) >= 2, 15)
        engine.stop()
    assert sorted(event["data"]["amount"] for event in receiver.of(user)) == [5, 7]


def test_payments_are_told(make_pluct: Make, receiver: Receiver) -> None:
    """Money of nobody known; and one that finds its user later is a grant."""
    with paying(make_pluct, "cancelled", toml(receiver), **SECRETS) as world:
        world.type_in("WRONG", "100", "SLK4H7R2T0")
        (unmatched,) = until(lambda: [e for e in receiver.got if e["type"] == "payment.unmatched"], 15)
        assert unmatched["data"]["reference"] == "SLK4H7R2T0" and unmatched["data"]["amount"] == 10_000
        (payment,) = world.payments()
        world.settle(payment, "assign", userId="juma", reason="sent the message")
        assert until(lambda: "credits.granted" in receiver.kinds("juma"), 15)


# Dead, and again


def test_a_dead_event_is_delivered_again(make_pluct: Make, receiver: Receiver) -> None:
    """By the route, or all that are dead by the command; what is not there is 404."""
    engine = make_pluct(toml=toml(receiver), **SECRETS)
    engine.start()
    user, operator = engine.funded(1), engine.key("operator")
    assert until(lambda: receiver.of(user), 15)
    engine.stop()
    with sqlite3.connect(engine.database) as connection:
        connection.execute("UPDATE letters SET state = 'dead', tries = 11")
    connection.close()
    engine.start()
    (event,) = engine.client.get("/v1/events", params={"state": "dead"}, headers=operator).json()["events"]
    assert b'pluct_events{state="dead"} 1.0' in engine.client.get("/metrics").content
    again = engine.post(f"/v1/events/{event['id']}/replay", {}, operator).json()
    assert (again["state"], again["tries"], again["id"]) == ("pending", 0, event["id"])
    assert until(lambda: len(receiver.of(user)) == 2, 15) and receiver.heads[0]["webhook-id"] == event["id"]
    refused(engine.post("/v1/events/none/replay", {}, operator), 404, "event_not_found")
    assert "event_not_found" in engine.run("events", "replay", "none", "--json", exit_code=1).stdout
    assert engine.json("events", "replay", "--dead", "--json")["replayed"] == 0
    assert engine.json("events", "list", "--json")["events"][0]["id"] == event["id"]
    assert event["id"] in engine.run("events", "list", "--state", "delivered").stdout
    shown = engine.run("events", "list", COLUMNS="80").stdout
    row = next(line for line in shown.splitlines() if event["id"] in line)
    assert "delivered" in row and f"{event['type']} {event['at'][:16].replace('T', ' ')}" in shown
    assert "Name one event" in engine.run("events", "replay", exit_code=1).stderr


def test_after_the_last_try_it_is_dead(make_pluct: Make, receiver: Receiver) -> None:
    """And the user's next one goes on; an address that is not set up any more is dead at once."""
    receiver.answer = lambda event: 500 if event["type"] == "credits.granted" else 200
    engine = make_pluct(toml=toml(receiver), **SECRETS)
    engine.start()
    user = engine.funded(2)
    engine.post("/vend-token", {"userId": user})
    engine.stop()
    with sqlite3.connect(engine.database) as connection:
        connection.execute("UPDATE letters SET tries = 10, due_at = 0 WHERE kind = 'credits.granted'")
    connection.close()
    engine.start()
    assert until(lambda: receiver.kinds(user) == ["ticket.captured"], 15)
    assert [e["type"] for e in engine.json("events", "list", "--state", "dead", "--json")["events"]] == [
        "credits.granted"
    ]
    engine.stop()
    with sqlite3.connect(engine.database) as connection:
        connection.execute("UPDATE letters SET state = 'pending', url = 'http://127.0.0.1:9/gone'")
    connection.close()
    engine.start()
    until(lambda: len(engine.json("events", "list", "--state", "dead", "--json")["events"]) == 2, 15)
    whole = [one["id"] for one in engine.json("events", "list")["events"]]
    page = engine.json("events", "list", "--limit", "1")
    rest = engine.json("events", "list", "--cursor", page["nextCursor"])
    assert len(whole) > 1 and [one["id"] for one in page["events"] + rest["events"]] == whole
    assert f"--cursor {page['nextCursor']}" in engine.run("events", "list", "--limit", "1", COLUMNS="80").stdout
    assert "--cursor" in engine.run("events", "list", "--cursor", "a\tb", exit_code=1).stderr


# Where to


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True), ("1.1.1.1", True), ("2606:4700::1111", True), ("127.0.0.1", False), ("0.0.0.0", False),
        ("10.0.0.1", False), ("172.16.0.1", False), ("192.168.1.1", False), ("169.254.169.254", False),
        ("100.64.0.1", False), ("192.0.2.1", False), ("224.0.0.1", False), ("255.255.255.255", False), ("::1", False),
        ("::", False), ("fe80::1", False), ("fe80::1%eth0", False), ("fd00::1", False), ("::ffff:127.0.0.1", False),
        ("::ffff:8.8.8.8", True), ("64:ff9b::7f00:1", False), ("2002:7f00:1::", False), ("ff02::1", False),
    ],
)  # fmt: skip
def test_which_addresses_are_public(address: str, public: bool) -> None:
    """Only those of the internet at large."""
    assert is_public(address) is public


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "0x7f.1", "2130706433"])
def test_a_private_address_is_not_spoken_to(make_pluct: Make, receiver: Receiver, host: str) -> None:
    """However it is written: nothing is sent, and why is said."""
    text = f'[[webhooks]]\nurl = "https://{host}:{receiver.port}/events"\n'
    engine = make_pluct(toml=text, **SECRETS)
    engine.start()
    engine.funded(1)

    def tried() -> list[dict[str, Any]]:
        return [event for event in engine.json("events", "list", "--json")["events"] if event["tries"]]

    (event,) = until(tried, 15)
    assert "is a private address: set allow_private = true" in event["answer"] and receiver.got == []


def test_an_answer_leads_nowhere(make_pluct: Make, receiver: Receiver) -> None:
    """A redirect is a failure, and so is an address where nobody is."""
    receiver.answer = lambda _: 302
    more = '[[webhooks]]\nurl = "http://127.0.0.1:9/nobody"\nallow_private = true\n'
    engine = make_pluct(toml=toml(receiver) + more, **SECRETS)
    engine.start()
    engine.funded(1)

    def answers() -> set[str]:
        return {event["answer"] for event in engine.json("events", "list", "--json")["events"] if event["tries"]}

    assert until(lambda: len(answers()) == 2, 15)
    assert answers() == {"It answered 302.", "It could not be reached (ConnectError)."}


def test_nothing_is_written_where_nobody_is_told(make_pluct: Make) -> None:
    """Without [[webhooks]] there are no letters."""
    engine = make_pluct()
    engine.start()
    engine.funded(1)
    assert engine.json("events", "list", "--json")["events"] == []


def test_who_may_look(engine: Pluct) -> None:
    """Operators; and the parameters are checked."""
    operator = engine.key("operator")
    refused(engine.client.get("/v1/events", headers=engine.key("service")), 403, "forbidden")
    for query in ({"state": "lost"}, {"limit": "0"}, {"limit": "201"}, {"cursor": ""}, {"cursor": "zzz"}):
        refused(engine.client.get("/v1/events", params=query, headers=operator), 400, "invalid_request")
    engine.funded(1)
    engine.funded(1)
    first = engine.client.get("/v1/events", params={"limit": "1"}, headers=operator).json()
    second = engine.client.get("/v1/events", params={"cursor": first["nextCursor"]}, headers=operator).json()
    assert first["events"][0]["id"] not in [event["id"] for event in second["events"]]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("webhooks = 3\n", "webhooks must be tables"), ("[[webhooks]]\n", "url is missing"),
        ('[[webhooks]]\nurl = "ftp://x"\n', "url must be https://"),
        ('[[webhooks]]\nurl = "http://example.com/"\n', "url must be https://"),
        ('[[webhooks]]\nurl = "https://x/"\nevents = ["credits.lost"]\n', "there is no event 'credits.lost'"),
        ('[[webhooks]]\nurl = "https://x/"\nexpiring_days = 8\n', "expiring_days must be 1 to 7"),
        ('[[webhooks]]\nurl = "https://x/"\nlow_below = 0\n', "low_below must be 1 to"),
        ('[[webhooks]]\nurl = "https://x/"\n[[webhooks]]\nurl = "https://x/"\n', "is there twice"),
        ('[[webhooks]]\nurl = "https://x/"\nsecret = "s"\n', "unknown key 'secret'"),
    ],
)  # fmt: skip
def test_wrong_settings_are_named(make_pluct: Make, text: str, part: str) -> None:
    """With the file and which table."""
    said = make_pluct(toml=text, **SECRETS).run("check", exit_code=2).stderr
    assert part in said and "pluct.toml: " in said


def test_the_secret_is_wanted(make_pluct: Make) -> None:
    """And is never shown; several may be there while it is changed."""
    text = '[[webhooks]]\nurl = "https://x.example/"\n'
    assert "PLUCT_WEBHOOK_OUT_SECRET must be set" in make_pluct(toml=text).run("check", exit_code=2).stderr
    for bad in ("whsec_short", "secret with spaces", f"{SECRET},whsec_x"):
        said = make_pluct(toml=text, PLUCT_WEBHOOK_OUT_SECRET=bad).run("check", exit_code=2).stderr
        assert "must be whsec_ and a key" in said and bad not in said
    make_pluct(toml=text, PLUCT_WEBHOOK_OUT_SECRET=f"{SECRET}, {SECRET}").run("migrate")
