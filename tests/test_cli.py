"""The program from a terminal: what it prints, for people and for programs, and how it ends."""

import json
import os
import pty
import re
import select
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import pytest

from conftest import Pluct
from pluct.cli import cli


@pytest.fixture
def pluct(make_pluct: Callable[..., Pluct]) -> Pluct:
    return make_pluct()


def commands(group: click.Group, *before: str) -> Iterator[list[str]]:
    """A group and all that is in it, as it is typed."""
    yield [*before]
    for name, command in group.commands.items():
        yield from commands(command, *before, name) if isinstance(command, click.Group) else [[*before, name]]


COMMANDS = [*commands(cli)]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_explains_itself(pluct: Pluct, command: list[str]) -> None:
    """With what it is for and what to type, and it touches nothing."""
    shown = pluct.run(*command, "--help").stdout
    assert "Usage: " in shown and (
        "Examples:" in shown or "Next: " in shown or "Start with: " in shown or "list" in command
    )
    assert not (pluct.folder / "data").exists()


def test_a_key_is_made_listed_and_revoked(server: Pluct) -> None:
    """Its secret is shown once, and from the moment it is revoked it opens nothing."""
    made = server.json("keys", "create", "--role", "operator", "--name", "Amina's phone")
    assert set(made) == {"id", "role", "name", "secret"} and made["role"] == "operator"
    headers = {"Authorization": f"Bearer {made['secret']}"}
    server.fund("u", 1)
    assert server.client.get("/v1/wallets/u", headers=headers).status_code == 200
    (listed,) = server.json("keys", "list")["keys"]
    assert (listed["id"], listed["name"], "revokedAt" in listed) == (made["id"], "Amina's phone", False)
    shown = server.run("keys", "list", COLUMNS="80").stdout
    assert made["secret"] not in shown and made["id"] in shown
    assert "revokedAt" in server.json("keys", "revoke", made["id"])
    assert server.client.get("/v1/wallets/u", headers=headers).status_code == 401
    assert made["secret"].encode() not in server.database.read_bytes()


def test_tickets_are_shown_and_given_back(server: Pluct) -> None:
    """Many at once, each once however often it is said; what cannot be is named, and the rest is done."""
    user = server.funded(5)
    ids = [server.post("/v1/vend-token", {"userId": user}).json()["ticketId"] for _ in range(3)]
    shown = server.json("tickets", "show", ids[0])
    assert (shown["state"], shown["userId"], shown["returnedAmount"]) == ("captured", user, 0)
    assert ids[0] in server.run("tickets", "show", ids[0]).stdout
    done = server.json("tickets", "void", *ids[:2], "--reason", "outage")
    assert done["ok"] and [ticket["ticketId"] for ticket in done["tickets"]] == ids[:2]
    assert server.available(user) == 4
    again = server.run("tickets", "void", *ids, "none", "--reason", "outage", "--json", exit_code=1)
    said = json.loads(again.stdout)
    assert [ticket["ticketId"] for ticket in said["tickets"]] == ids[2:] and not said["ok"]
    assert [(each["ticketId"], each["code"]) for each in said["refused"]] == [
        (ids[0], "ticket_already_settled"), (ids[1], "ticket_already_settled"), ("none", "ticket_not_found"),
    ]  # fmt: skip
    assert server.available(user) == 5
    entry = server.json("credits", "history", user)["entries"][0]
    assert entry["reason"] == "outage" and entry["actor"].startswith("cli")
    assert "No ids were given" in server.run("tickets", "void", "-", "--reason", "r", exit_code=1, stdin="\n").stderr


def test_credits_are_granted_adjusted_and_shown(server: Pluct) -> None:
    """Beside a running server, with the answers of the matching routes."""
    granted = server.json("credits", "grant", "amina", "10", "--reason", "paid by hand", "--reference", "Q1")
    assert set(granted) == {"ok", "userId", "amount", "grantId", "newBalance", "requestId"}
    assert (granted["userId"], granted["amount"], granted["newBalance"]) == ("amina", 10, 10)
    again = server.json("credits", "grant", "amina", "10", "--reason", "again", "--reference", "Q1")
    assert again["grantId"] == granted["grantId"] and server.available("amina") == 10
    gift = ["credits", "grant", "amina", "3", "--reason", "welcome", "--promotional", "--expires", "30d"]
    assert server.json(*gift)["newBalance"] == 13
    entry = server.json("credits", "adjust", "amina", "-5", "--reason", "granted twice")
    assert (entry["amount"], entry["debit"], entry["credit"], entry["availableAfter"]) == (
        5,
        "user:amina",
        "adjusted",
        8,
    )
    assert entry["actor"].startswith("cli") and entry["reason"] == "granted twice"
    assert server.json("credits", "adjust", "amina", "+2", "--reason", "sorry")["availableAfter"] == 10
    operator = server.key("operator")
    route = server.client.get("/v1/wallets/amina", headers=operator).json()
    shown = server.json("credits", "show", "amina")
    assert {**shown, "requestId": 0} == {**route, "requestId": 0} and shown["available"] == 10
    route = server.client.get("/v1/wallets/amina/entries", headers=operator).json()
    assert {**server.json("credits", "history", "amina"), "requestId": 0} == {**route, "requestId": 0}


@pytest.mark.parametrize(("when", "days"), [("30d", 30), ("12h", 0.5), ("1h", 1 / 24)])
def test_credits_expire_when_they_are_told_to(pluct: Pluct, when: str, days: float) -> None:
    """In so many days or hours from now."""
    pluct.run("credits", "grant", "amina", "1", "--reason", "gift", "--expires", when)
    (lot,) = pluct.json("credits", "show", "amina")["lots"]
    expected = datetime.now(UTC) + timedelta(days=days)
    assert abs(datetime.fromisoformat(lot["expiresAt"]) - expected) < timedelta(seconds=60)


def test_credits_expire_at_a_time_with_an_offset(pluct: Pluct) -> None:
    """As in RFC 3339; it is shown in UTC."""
    pluct.run("credits", "grant", "amina", "1", "--reason", "gift", "--expires", "2099-01-31T03:00:00+03:00")
    assert pluct.json("credits", "show", "amina")["lots"][0]["expiresAt"] == "2099-01-31T00:00:00.000Z"


REFUSED = [
    (["credits", "adjust", "amina", "-1", "--reason", "x"], "insufficient_credits"),
    (["credits", "adjust", "amina", "0", "--reason", "x"], "invalid_request"),
    (["credits", "grant", "amina", "0", "--reason", "x"], "invalid_request"),
    (["credits", "grant", "amina", "-4", "--reason", "x"], "invalid_request"),
    (["credits", "grant", "amina", "1000000001", "--reason", "x"], "amount_too_large"),
    (["credits", "grant", "amina", "9" * 19, "--reason", "x"], "amount_too_large"),
    (["credits", "grant", "amina", "9" * 20, "--reason", "x"], "amount_too_large"),
    (["credits", "adjust", "amina", "-" + "9" * 5000, "--reason", "x"], "amount_too_large"),
    (["credits", "grant", "", "1", "--reason", "x"], "invalid_request"),
    (["credits", "grant", "a\tb", "1", "--reason", "x"], "invalid_request"),
    (["credits", "grant", "x" * 201, "1", "--reason", "x"], "invalid_request"),
    (["credits", "grant", os.fsdecode(b"\xff"), "1", "--reason", "x"], "invalid_request"),
    (["credits", "grant", "amina", "1", "--reason", ""], "invalid_request"),
    (["credits", "grant", "amina", "1", "--reason", "x", "--expires", "soon"], "invalid_request"),
    (["credits", "grant", "amina", "1", "--reason", "x", "--expires", "2020-01-01T00:00:00Z"], "invalid_request"),
    (["credits", "grant", "amina", "1", "--reason", "x", "--expires", "99999d"], None),
    (["credits", "show", "nobody"], "wallet_not_found"),
    (["credits", "history", "nobody"], "wallet_not_found"),
    (["keys", "revoke", "key_none"], "invalid_request"),
    (["keys", "create", "--role", "mint", "--name", "a\nb"], "invalid_request"),
]


@pytest.mark.parametrize(("command", "code"), REFUSED, ids=[" ".join(command)[:50] for command, _ in REFUSED])
def test_a_refusal_is_a_sentence_and_exit_status_1(pluct: Pluct, command: list[str], code: str | None) -> None:
    """For programs, the problem the matching route would answer."""
    if code is None:
        assert pluct.json(*command)["newBalance"] == 1
        return
    pluct.run("migrate")
    shown = pluct.run(*command, exit_code=1)
    assert shown.stdout == "" and re.fullmatch(r"[A-Z][^\n]+: [^\n]+[.\w]\n", shown.stderr)
    problem = pluct.json(*command, exit_code=1)
    assert problem["code"] == code and problem["detail"] and problem["status"] >= 400


WRONG = [
    ["credits", "grant", "amina", "1_0", "--reason", "x"], ["credits", "grant", "amina", "1.5", "--reason", "x"],
    ["credits", "grant", "amina", "x", "--reason", "x"], ["credits", "grant", "amina", "5"], ["credits", "grant"],
    ["keys", "create", "--role", "king", "--name", "x"], ["keys", "create", "--role", "mint"], ["nonsense"],
    ["credits", "history", "amina", "--limit", "0"], ["credits", "history", "amina", "--limit", "201"],
    ["serve", "--port", "70000"], ["serve", "--workers", "0"], ["serve", "--workers", "2"],
    ["import-kv", "nothing.json"],
    ["credits", "show", "amina", "--jsn"],
]  # fmt: skip


@pytest.mark.parametrize("command", WRONG, ids=" ".join)
def test_what_cannot_run_says_why_with_exit_status_2(pluct: Pluct, command: list[str]) -> None:
    """On standard error, and nothing is made."""
    shown = pluct.run(*command, exit_code=2)
    assert shown.stdout == "" and shown.stderr.strip()


def test_a_port_that_is_taken_is_named(server: Pluct, make_pluct: Callable[..., Pluct]) -> None:
    """With what to do about it."""
    port = server.url.rpartition(":")[2]
    shown = make_pluct("other").run("serve", "--port", port, exit_code=2)
    assert f"port {port}" in shown.stderr and "--port" in shown.stderr and shown.stderr.count("127.0.0.1") == 1


def test_check_says_that_a_ledger_is_sound(server: Pluct) -> None:
    """Beside the server."""
    server.fund("amina", 5)
    assert server.json("check") == {"ok": True, "violations": []}
    assert "sound" in server.run("check").stdout


READING = [
    ["check"], ["credits", "show", "amina"], ["credits", "history", "amina"], ["payments", "list"],
    ["payments", "show", "SLK4H7R2T0"], ["payments", "requests"], ["events", "list"], ["keys", "list"],
    ["tickets", "show", "t"], ["statement", "amina"], ["signing-keys", "list"], ["payments", "reconcile", "x.csv"],
    ["credits", "adjust", "amina", "1", "--reason", "x"], ["keys", "revoke", "key_1"], ["users", "revoke", "u"],
]  # fmt: skip


@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_a_ledger_that_is_not_there_is_not_made_by_looking(pluct: Pluct, command: list[str]) -> None:
    """In the wrong folder nothing is sound, and nothing is there afterwards."""
    shown = pluct.run(*command, exit_code=2)
    assert shown.stdout == "" and f"There is no ledger at {pluct.database}." in shown.stderr
    assert list(pluct.folder.iterdir()) == []


def test_whoever_reads_half_is_not_an_error(pluct: Pluct) -> None:
    """`pluct … | head -0`."""
    for number in range(3):
        pluct.run("credits", "grant", "amina", "1", "--reason", f"reason {number}")
    shell = f"{sys.executable} -m pluct credits history amina --json | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", shell], cwd=pluct.folder, env=pluct.environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and done.stderr == ""


def on_a_terminal(pluct: Pluct, *command: str) -> str:
    """What a person sees."""
    main, child = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "pluct", *command], cwd=pluct.folder, stdout=child, stderr=child, stdin=child,
        env=pluct.environment | {"TERM": "xterm-256color", "COLUMNS": "100"},
    ) as process:  # fmt: skip
        os.close(child)
        seen = b""
        while select.select([main], [], [], 30)[0]:
            try:
                data = os.read(main, 65536)
            except OSError:  # the other side has gone
                break
            seen += data
        assert process.wait(30) == 0
    os.close(main)
    return seen.decode()


def test_a_person_sees_tables_and_colour(pluct: Pluct) -> None:
    """And progress, while something is at work; programs see neither."""
    pluct.run("credits", "grant", "amina", "10", "--reason", "[b]x[/b]")
    seen = on_a_terminal(pluct, "credits", "history", "amina")
    assert "┃" in seen and "\x1b[" in seen and "[b]x[/b]" in seen and "+10" in seen
    assert "\x1b[" not in pluct.run("credits", "history", "amina").stdout
    seen = on_a_terminal(pluct, "check")
    assert "checking" in seen or "%" in seen or "/" in seen
    assert "The ledger is sound." in seen


# Importing the old ledger


def kv(pluct: Pluct, pairs: object) -> str:
    path = pluct.folder / "kv.json"
    path.write_text(pairs if isinstance(pairs, str) else json.dumps(pairs))
    return str(path)


def test_the_old_ledger_is_imported_once(server: Pluct) -> None:
    """Each user with what they had, with or without prefix, beside a server, however often it runs."""
    pairs = [
        {"key": "amina", "value": "12"}, {"key": "user:brian", "value": "3"}, {"key": "credits:chipo", "value": "1"},
        {"key": "user:amina", "value": "12"}, {"key": "nobody", "value": "0"},
    ]  # fmt: skip
    file = kv(server, pairs)
    report = server.json("import-kv", file)
    assert report == {"imported": 3, "already": 0, "empty": 1, "credits": 16, "refused": []}
    assert [server.available(user) for user in ("amina", "brian", "chipo", "nobody")] == [12, 3, 1, 0]
    assert server.json("import-kv", file) == {"imported": 0, "already": 3, "empty": 1, "credits": 0, "refused": []}
    assert server.available("amina") == 12
    entry = server.json("credits", "history", "amina")["entries"][0]
    assert (entry["debit"], entry["amount"]) == ("issued:import", 12)
    assert server.json("check")["ok"]


@pytest.mark.parametrize(
    "value", ["1010x", "NaN", "1.5", "-3", "1e3", "", " 5", "1000000001", None, True, 1.5, [1], "٣"]
)
def test_a_value_that_is_no_number_of_credits_is_refused(pluct: Pluct, value: object) -> None:
    """Named with its reason; the rest is imported."""
    file = kv(pluct, [{"key": "bad", "value": value}, {"key": "good", "value": "5"}])
    report = pluct.json("import-kv", file, exit_code=1)
    assert report["imported"] == 1 and [refused["key"] for refused in report["refused"]] == ["bad"]
    assert report["refused"][0]["reason"]
    assert "bad" in pluct.run("import-kv", file, exit_code=1).stdout


def test_keys_that_disagree_are_both_refused(pluct: Pluct) -> None:
    """Nobody knows which is right; the same key twice with two values as well."""
    pairs = [
        {"key": "user:amina", "value": "3"}, {"key": "credits:amina", "value": "4"}, {"key": "brian", "value": "1"},
        {"key": "brian", "value": "2"}, {"key": "chipo", "value": "5"},
    ]  # fmt: skip
    report = pluct.json("import-kv", kv(pluct, pairs), exit_code=1)
    assert report["imported"] == 1 and len(report["refused"]) == 4
    assert {refused["key"].split(" ")[0] for refused in report["refused"]} == {"user:amina", "credits:amina", "brian"}


def test_a_later_export_does_not_change_what_was_imported(pluct: Pluct) -> None:
    """It is refused, with what to do instead."""
    pluct.json("import-kv", kv(pluct, [{"key": "amina", "value": "3"}]))
    report = pluct.json("import-kv", kv(pluct, [{"key": "amina", "value": "4"}]), exit_code=1)
    assert "adjust" in report["refused"][0]["reason"]
    assert pluct.json("credits", "show", "amina")["available"] == 3


@pytest.mark.parametrize("pairs", [
    [7], [None], [{"value": "5"}], [{"key": 7, "value": "5"}], [{"key": "a"}], [{"key": "", "value": "5"}],
    [{"key": "user:", "value": "5"}], [{"key": "a\nb", "value": "5"}], [{"key": "x" * 201, "value": "5"}],
    [{"key": "a", "value": "NQ==", "base64": True}], [["a", "5"]],
])  # fmt: skip
def test_a_pair_that_is_none_is_refused(pluct: Pluct, pairs: object) -> None:
    """By its key, or by its place in the file."""
    report = pluct.json("import-kv", kv(pluct, pairs), exit_code=1)
    assert report["imported"] == 0 and len(report["refused"]) == 1


@pytest.mark.parametrize(
    "text", ["", "{}", "[", "null", '"x"', "[" * 100_000, "\ufeff[]", '[{"key": "a", "value": 1e9999}]']
)
def test_a_file_that_is_no_export_cannot_be_imported(pluct: Pluct, text: str) -> None:
    """A sentence, and exit status 2 (or 1, where only the value is at fault)."""
    done = pluct.run("import-kv", kv(pluct, text), exit_code=None)
    assert done.returncode in (1, 2) and (done.stdout or done.stderr).strip()


def test_an_import_shows_its_progress(pluct: Pluct) -> None:
    """On a terminal, while it is at work."""
    file = kv(pluct, [{"key": f"user-{number}", "value": "1"} for number in range(3_000)])
    seen = on_a_terminal(pluct, "import-kv", Path(file).name)
    assert "importing" in seen and "3000/3000" in seen and "3000" in seen.splitlines()[-1]
