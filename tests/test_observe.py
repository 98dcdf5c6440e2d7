"""What the engine tells about itself: log lines, metrics and request ids, and a log that can hold nobody up."""

import json
import logging
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from conftest import WEBHOOK_SECRET, Keys, Pluct, claims, new_id, served, until
from pluct.observe import BUCKETS_SECONDS, LOG_LINES_MAX, Event, LogHandler, LogWriter, Observer

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}(Z|\+00:00)")
LINE = {"at", "requestId", "method", "route", "status", "ms"}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pluct]:
    with served(tmp_path_factory.mktemp("observe")) as pluct:
        yield pluct


@pytest.fixture(scope="module")
def keys(engine: Pluct) -> Keys:
    return {role: engine.key(role) for role in ("service", "operator")}


def lines(engine: Pluct) -> list[dict[str, Any]]:
    """Every line of the log, each of which must be a JSON object."""
    found = [json.loads(line) for line in engine.log.split("\n")[:-1]]
    assert all(isinstance(line, dict) for line in found)
    return found


def line_of(engine: Pluct, request_id: str) -> dict[str, Any]:
    """The one line of this request, once it has been written."""
    until(lambda: request_id in engine.log)
    (line,) = [line for line in lines(engine) if line.get("requestId") == request_id]
    return line


# The log


def test_each_request_is_one_line(engine: Pluct) -> None:
    """With when, who, what, how it ended and how long it took; exactly these fields."""
    user_id, marker = engine.funded(1), new_id()
    body = {"userId": user_id, "clientRequestId": "once"}
    engine.post("/v1/vend-token", body, {"X-Request-Id": marker})
    line = line_of(engine, marker)
    assert set(line) - {"userId", "ticketId"} == LINE
    assert (line["method"], line["route"], line["status"], line["userId"]) == ("POST", "/v1/vend-token", 200, user_id)
    assert TIME.fullmatch(line["at"]) and 0 < line["ms"] < 10_000
    engine.post("/v1/vend-token", body, {"X-Request-Id": marker + "-again"})
    assert line_of(engine, marker + "-again")["replayed"] is True


def test_a_line_names_the_route_not_the_address(engine: Pluct, keys: Keys) -> None:
    """Ids, queries and what strangers type into an address do not become routes."""
    for path, route in (("/v1/wallets/a%2Fb", "/v1/wallets/{userId}"), ("/v1/tickets/x", "/v1/tickets/{id}"),
                        ("/no/such?key=1", "(none)"), ("/health?x=1", "/health")):  # fmt: skip
        marker = new_id()
        engine.client.get(path, headers=keys["operator"] | {"X-Request-Id": marker})
        assert line_of(engine, marker)["route"] == route


def test_a_refusal_has_its_code_and_a_caller_its_keys_id(engine: Pluct, keys: Keys) -> None:
    """The id that `keys list` shows, never the key."""
    marker = new_id()
    engine.client.get(f"/v1/wallets/{new_id()}", headers=keys["service"] | {"X-Request-Id": marker})
    line = line_of(engine, marker)
    assert (line["status"], line["code"]) == (404, "wallet_not_found")
    ids = {key["id"]: key["role"] for key in engine.json("keys", "list")["keys"]}
    assert ids[line["caller"]] == "service"
    assert keys["service"]["Authorization"].split()[1] not in engine.log


@pytest.mark.parametrize("user_id", ['"\\ }{', "\u2028\u2029", "日本", "\U0001f600", "\u202e", "<script>"])
def test_no_user_id_breaks_a_line(engine: Pluct, user_id: str) -> None:
    """One request stays one line of JSON, whatever the id is made of."""
    marker = new_id()
    engine.client.get("/v1/credits/balance", params={"userId": user_id}, headers={"X-Request-Id": marker})
    until(lambda: marker in engine.log)
    raw = (engine.folder / "server.log").read_bytes().split(b"\n")
    (line,) = [json.loads(line) for line in raw if marker.encode() in line]
    assert line["userId"] == user_id


def test_what_was_refused_unread_is_logged_too(engine: Pluct) -> None:
    """Unknown addresses, wrong methods, bodies that are too large or no JSON."""
    for status, send in (
        (404, lambda h: engine.client.get("/nowhere", headers=h)),
        (405, lambda h: engine.client.get("/vend-token", headers=h)),
        (413, lambda h: engine.post("/vend-token", b"x" * 70_000, h)),
        (400, lambda h: engine.post("/vend-token", b"{", h)),
        (401, lambda h: engine.post("/add-credits", b"", h)),
    ):
        marker = new_id()
        assert send({"X-Request-Id": marker}).status_code == status
        assert line_of(engine, marker)["status"] == status


def test_standard_log_records_are_lines_of_json_too(tmp_path: Path) -> None:
    """Warnings and faults of the program and its libraries, with their traceback, on one line."""
    with (tmp_path / "log").open("wb") as file:
        writer = LogWriter(file.fileno())
        logger = logging.Logger("a name")
        logger.addHandler(LogHandler(writer.write))
        try:
            raise ValueError("two\nlines")
        except ValueError:
            logger.exception("it failed: %s", "why")
        writer.close()
    (line,) = (tmp_path / "log").read_text().splitlines()
    found = json.loads(line)
    assert (found["level"], found["logger"]) == ("error", "a name")
    assert found["message"].startswith("it failed: why\n") and "ValueError: two" in found["message"]


def test_what_the_server_library_has_to_say_is_a_line_of_json_too(engine: Pluct) -> None:
    """Its level and its name in fields of their own, and not again in the message."""
    with socket.create_connection(("127.0.0.1", int(engine.url.rpartition(":")[2])), 5) as line:
        line.sendall(b"no http\r\n\r\n")
        assert line.recv(1000).startswith(b"HTTP/1.1 400 ")
    (said,) = until(lambda: [line for line in lines(engine) if line.get("logger") == "uvicorn.error"])
    assert said == {"level": "warning", "logger": "uvicorn.error", "message": "Invalid HTTP request received."}


# Metrics


def samples(engine: Pluct) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """All samples by name and labels, as an independent parser reads them."""
    families = text_string_to_metric_families(engine.client.get("/metrics").text)
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def grown(before: dict[Any, float], after: dict[Any, float], name: str) -> dict[tuple[str, ...], float]:
    """By how much the samples of this name have grown, by the values of their labels."""
    return {
        tuple(value for _, value in labels): after[key] - before.get(key, 0)
        for key in after
        for found, labels in [key]
        if found == name and after[key] != before.get(key, 0)
    }


def test_metrics_are_prometheus_text(engine: Pluct) -> None:
    """Any Prometheus reads them: type, help, and names that follow the rules."""
    answer = engine.client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = list(text_string_to_metric_families(answer.text))
    assert {family.name for family in families} >= {
        "pluct_requests", "pluct_request_seconds", "pluct_verbs", "pluct_credits", "pluct_log_lines_dropped",
    }  # fmt: skip
    assert all(family.documentation and family.type in ("counter", "gauge", "histogram") for family in families)


def test_requests_verbs_and_credits_are_counted(engine: Pluct) -> None:
    """By route and status, by verb and outcome; a replay moves no credits and counts none."""
    before = samples(engine)
    user_id = engine.funded(5)
    for _ in range(2):
        engine.post("/v1/vend-token", {"userId": user_id, "clientRequestId": "once"})
    engine.post("/vend-token", {"userId": new_id()})
    after = samples(engine)
    assert grown(before, after, "pluct_verbs_total") == {
        ("ok", "grant"): 1, ("ok", "vend"): 1, ("replayed", "vend"): 1, ("insufficient_credits", "vend"): 1,
    }  # fmt: skip
    assert grown(before, after, "pluct_credits_total") == {("grant",): 5, ("vend",): 1}
    requests = grown(before, after, "pluct_requests_total")
    assert requests == {
        ("/add-credits", "200"): 1, ("/v1/vend-token", "200"): 2, ("/vend-token", "403"): 1, ("/metrics", "200"): 1,
    }  # fmt: skip


def test_latencies_are_a_histogram(engine: Pluct) -> None:
    """Buckets that grow, an infinite one that counts all, and a plausible sum."""
    before, started = samples(engine), time.monotonic()
    for _ in range(20):
        engine.client.get("/v1/credits/balance?userId=u")
    took, after = time.monotonic() - started, samples(engine)
    route = ("route", "/v1/credits/balance")
    assert grown(before, after, "pluct_request_seconds_count")[route[1:]] == 20
    assert 0 < grown(before, after, "pluct_request_seconds_sum")[route[1:]] < took
    buckets = {
        float(dict(labels)["le"]): value
        for (name, labels), value in after.items()
        if name == "pluct_request_seconds_bucket" and route in labels
    }
    assert sorted(buckets) == [*BUCKETS_SECONDS, float("inf")]
    counts = [buckets[bound] for bound in sorted(buckets)]
    assert counts == sorted(counts)
    assert counts[-1] == after["pluct_request_seconds_count", (route,)]


def test_strangers_cannot_make_metrics_grow(engine: Pluct) -> None:
    """Neither addresses, user ids nor methods become labels."""
    engine.client.get("/nowhere")
    engine.client.put("/v1/wallets/first")
    before = set(samples(engine))
    for number in range(20):
        engine.client.get(f"/nowhere/{number}")
        engine.client.get(f"/v1/wallets/{number}")
        engine.client.put(f"/v1/wallets/{number}")
        engine.client.get(f"/v1/credits/balance?userId={number}", headers={"X-Request-Id": str(number)})
    assert len(set(samples(engine)) - before) <= 2 * (len(BUCKETS_SECONDS) + 4)
    assert not [key for key in samples(engine) if "19" in str(key[1]) and "le" not in dict(key[1])]


def test_the_log_says_whose_ticket_it_was(engine: Pluct, keys: Keys) -> None:
    """Sold, redeemed and given back: each line names the user and the ticket, so that both can be followed."""
    user, marks = engine.funded(2), [new_id() for _ in range(4)]
    for path in ("/vend-token", "/v1/vend-token"):
        vended = engine.post(path, {"userId": user}, {"X-Request-Id": marks.pop(0)}).json()
    id = vended["ticketId"]
    engine.post("/v1/tickets/redeem", {"token": vended["token"]}, keys["service"] | {"X-Request-Id": marks[0]})
    engine.post(f"/v1/tickets/{id}/void", {"reason": "a test"}, keys["service"] | {"X-Request-Id": marks[1]})
    told = [line_of(engine, mark) for mark in marks]
    assert [(line["status"], line["userId"], line["ticketId"]) for line in told] == [(200, user, id)] * 2
    sold = until(lambda: [line for line in lines(engine) if line.get("userId") == user and "vend" in line["route"]][1:])
    assert sold[0]["ticketId"] == id


def test_neither_metrics_nor_log_have_a_secret(engine: Pluct, keys: Keys) -> None:
    """Not the webhook's, no key, no ticket."""
    token, marker = engine.post("/vend-token", {"userId": engine.funded(1)}).json()["token"], new_id()
    assert claims(token)["iss"]
    engine.post("/v1/tickets/redeem", {"token": token}, keys["service"] | {"X-Request-Id": marker})
    assert line_of(engine, marker)["status"] == 200
    for secret in (WEBHOOK_SECRET, token, keys["service"]["Authorization"].split()[1]):
        assert secret not in engine.log + engine.client.get("/metrics").text


# Request ids


def test_made_request_ids_are_not_made_twice(engine: Pluct) -> None:
    """Each answer has one of its own, and its log line has the same."""
    ids = [engine.client.get("/health").headers["x-request-id"] for _ in range(50)]
    assert len(set(ids)) == 50
    assert line_of(engine, ids[-1])["route"] == "/health"


def test_a_callers_request_id_is_kept_in_the_log(engine: Pluct) -> None:
    """Whatever printable text it is; anything else is replaced, and cannot forge a line."""
    given = 'x" , "status": 200 }'
    engine.client.get("/health", headers={"X-Request-Id": given})
    until(lambda: [line for line in lines(engine) if line.get("requestId") == given])
    forged: Any = {"X-Request-Id": b"a\tb" + new_id().encode()}
    made = engine.client.get("/health", headers=forged).headers["x-request-id"]
    assert "\t" not in made and line_of(engine, made)["route"] == "/health"


# The writer


def event(number: int) -> Event:
    return Event("2030-01-31T00:00:00.000Z", str(number), "GET", "/health", 200, 1.5)


def test_lines_are_written_in_order_and_whole(tmp_path: Path) -> None:
    """From many threads, all of them, by the time the writer is closed."""
    with (tmp_path / "log").open("wb") as file:
        writer = LogWriter(file.fileno())

        def write(lane: int) -> None:
            for number in range(500):
                writer.write(b"%d %d\n" % (lane, number))

        threads = [threading.Thread(target=write, args=(lane,)) for lane in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        writer.close()
    found = [tuple(map(int, line.split())) for line in (tmp_path / "log").read_text().splitlines()]
    assert len(found) == 2000 and writer.dropped == 0
    for lane in range(4):
        assert [number for of, number in found if of == lane] == list(range(500))


def test_a_reader_that_does_not_read_holds_nobody_up() -> None:
    """A full pipe: writing stays quick, memory stays bounded, what does not fit is dropped and counted."""
    reading, writing = os.pipe()
    writer = LogWriter(writing)
    observer = Observer(writer)
    try:
        sent, line = 3 * LOG_LINES_MAX, b"x" * 199 + b"\n"
        writer.write(line * 1000)  # more than a pipe takes: from here on the writing thread is stuck
        until(lambda: not writer._lines)
        started = time.perf_counter()
        for _ in range(sent):
            writer.write(line)
        assert time.perf_counter() - started < 10
        assert len(writer._lines) <= LOG_LINES_MAX
        assert writer.dropped == sent - LOG_LINES_MAX
        observer.request(event(1))
        assert f"pluct_log_lines_dropped {float(writer.dropped)}" in observer.metrics().decode()
        started = time.perf_counter()
        writer.close(seconds_max=0.2)
        assert time.perf_counter() - started < 2
    finally:
        os.close(reading)
        writer.close(5)
        os.close(writing)
    assert not writer._thread.is_alive()


def test_a_reader_that_has_gone_away_is_no_accident() -> None:
    """A closed pipe drops the lines and counts them; the next ones too."""
    reading, writing = os.pipe()
    os.close(reading)
    writer = LogWriter(writing)
    for number in range(3):
        writer.write(b"a line\n")
        until(lambda number=number: writer.dropped == number + 1)  # type: ignore[misc]
    writer.close()
    os.close(writing)
    assert not writer._thread.is_alive()


def test_an_event_is_a_line_without_what_is_not_known() -> None:
    """Empty fields are left out, and the line ends where it should."""
    reading, writing = os.pipe()
    writer = LogWriter(writing)
    Observer(writer).request(event(7))
    writer.close()
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        content = pipe.read()
    assert content.endswith(b"}\n") and content.count(b"\n") == 1
    assert json.loads(content) == {
        "at": "2030-01-31T00:00:00.000Z", "requestId": "7", "method": "GET", "route": "/health", "status": 200,
        "ms": 1.5,
    }  # fmt: skip
