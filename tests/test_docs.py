"""The documentation keeps up with the program: nothing undocumented, nothing documented that is not there.

The examples of `docs/api.md` are sent to a real server, in their order, and must be answered as they say.
"""

import json
import re
import secrets
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from string import Template
from typing import Any, get_args
from urllib.parse import unquote

import httpx
import msgspec
import pytest

from conftest import WEBHOOK_SECRET, Pluct
from doubles.daraja import Simulator
from paying import PATH_TOKEN, SECRETS, in_a_thread
from pluct import cli_gate, cli_log, errors, payment_settings, settings, webhook_settings
from pluct.app import now_ms
from pluct.catalog import REPORT_SECONDS_MAX, TTL_SECONDS_MAX, Action
from pluct.gateways.configured import NAMES, described
from pluct.model import EntryKind, Settlement, TicketState
from pluct.web import docs
from pluct.web.access import Access
from pluct.web.endpoint import Route
from pluct.web.routes import table

ROOT = Path(__file__).parent.parent
API = (ROOT / "docs" / "api.md").read_text("utf-8")
SETTINGS = (ROOT / "docs" / "settings.md").read_text("utf-8")
GATEWAYS = (ROOT / "docs" / "gateways.md").read_text("utf-8")
README = (ROOT / "README.md").read_text("utf-8")
FOLDERS = ("docs", "src", "tests", "bench", ".ci")
ROUTES = [*table(Access("token", ("secret",), None), None, None, None, 0, now_ms), *docs.routes({})]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "verifier").glob("*.md")])


def sections(page: str) -> dict[str, str]:
    """A page's text by heading."""
    parts = re.split(r"^#{1,6} (.+)$", without_code(page), flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def without_code(page: str) -> str:
    """A page without its code blocks, whose lines may start with a #."""
    return re.sub(r"^ *```.*?^ *```$", "", page, flags=re.M | re.S)


def blocks(page: str, language: str) -> list[str]:
    """A page's code blocks in one language, with the indentation of lists taken off."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```$", page, flags=re.M | re.S)
    return [re.sub(rf"^{indent}", "", text, flags=re.M) for indent, text in found]


def named(route: Route) -> str:
    """A route as the documentation writes it."""
    return f"{route.method} {route.path}"


def fields(kind: Any) -> set[str]:
    """The names of a body, query or answer, with those of the values in it."""
    schemas, components = msgspec.json.schema_components([kind])
    found = {name for schema in (*schemas, *components.values()) for name in schema.get("properties", {})}
    assert found
    return found


# The interface


def test_there_is_something_to_document() -> None:
    """A table that came out empty would be documented all too easily."""
    assert len(ROUTES) > 15
    assert {"POST /vend-token", "POST /v1/tickets/{id}/capture", "GET /openapi.json"} <= {named(r) for r in ROUTES}


@pytest.mark.parametrize("route", [r for r in ROUTES if not r.path.startswith("/docs/")], ids=named)
def test_every_route_is_documented(route: Route) -> None:
    """By method and address, in code marks."""
    assert f"`{named(route)}`" in API


def test_every_documented_route_exists() -> None:
    """Nobody is sent to an address that is not there."""
    written = set(re.findall(r"`((?:GET|POST|PUT|PATCH|DELETE) /\S*?)`", API))
    assert written - {named(route) for route in ROUTES} == set()


@pytest.mark.parametrize("route", [r for r in ROUTES if r.body or r.query], ids=named)
def test_every_field_a_route_takes_is_documented(route: Route) -> None:
    """In the route's own section."""
    section = sections(API)[f"`{named(route)}`"]
    taken = {name for kind in (route.body, route.query) if kind for name in fields(kind)}
    assert [name for name in taken if f"`{name}`" not in section] == []


@pytest.mark.parametrize("route", [r for r in ROUTES if r.answer], ids=named)
def test_every_field_a_route_answers_is_documented(route: Route) -> None:
    """Somewhere on the page: in a table, a sentence or an example."""
    assert [name for name in fields(route.answer) if f"`{name}`" not in API and f'"{name}"' not in API] == []


@pytest.mark.parametrize("route", [r for r in ROUTES if r.door], ids=named)
def test_everyone_a_route_is_for_is_documented(route: Route) -> None:
    """The section's first words say for whom, as the door does."""
    assert route.door is not None
    who = re.search(r"^For: (.+?)\.(?:\s|$)", sections(API)[f"`{named(route)}`"], flags=re.M)
    assert who
    written = set(re.findall(r"`(mint|service|operator)`", who[1])) | ({"user"} if "user token" in who[1] else set())
    assert written == set(route.door.roles)


def kinds_of(error: type[errors.PluctError]) -> Iterator[type[errors.PluctError]]:
    """An error class and all that are derived from it."""
    yield error
    for derived in error.__subclasses__():
        yield from kinds_of(derived)


CODES = {
    (kind.status, kind.code) for kind in kinds_of(errors.PluctError) if kind.__module__ == "pluct.errors"
} - {(errors.SetupError.status, errors.SetupError.code)}  # fmt: skip


def test_every_error_code_is_documented_and_no_other() -> None:
    """With its status, a row each. A set-up that is wrong ends the program; HTTP never sees it."""
    rows = re.findall(r"^\| (\d{3}) \| `(\w+)` \|", API, flags=re.M)
    assert {(int(status), code) for status, code in rows} == CODES
    assert len(rows) == len(CODES) > 15


@pytest.mark.parametrize("words", [TicketState, EntryKind, Settlement], ids=["states", "entry kinds", "settlements"])
def test_every_word_an_answer_may_hold_is_documented(words: Any) -> None:
    """States, kinds of entries and settlements."""
    assert [w for w in words.__args__ if f"`{w}`" not in API and f'`"{w}"`' not in API] == []


# Settings


def rows(page: str, name: str) -> list[str]:
    """The rows of tables whose first cell is this name."""
    return [line for line in page.splitlines() if line.startswith(f"| `{name}` |")]


@pytest.mark.parametrize("name", [*settings.NAMES, "PLUCT_CONFIG"])
def test_every_setting_is_documented(name: str) -> None:
    """A row with its default; those the environment does not know go by their key in the file."""
    key = name.lower() if name == "RETURNED_GRACE_SECONDS" else name
    (row,) = rows(SETTINGS, key)
    if name in settings.DEFAULTS:
        assert f"`{settings.DEFAULTS[name]}`" in row
    elif name in settings.DEVELOPMENT_SECRETS:
        assert "development:" in row


def test_every_documented_setting_exists() -> None:
    """No setting is promised that nothing reads."""
    elsewhere = {"PLUCT_CONFIG", cli_gate.KEY, cli_log.KEY, webhook_settings.SECRET}
    first_cells = re.findall(r"^\| `([A-Z_]{4,})` \|", SETTINGS, flags=re.M)
    assert set(first_cells) | {"RETURNED_GRACE_SECONDS"} == {*settings.NAMES, *elsewhere, "PRIVACY_SECRET"}
    words = set(re.findall(r"\bPLUCT_[A-Z_]+\b", SETTINGS + API + README))
    assert words - {*settings.NAMES, *elsewhere} == set()


@pytest.mark.parametrize("name", sorted(settings.DEFAULTS.keys() - {"RETURNED_GRACE_SECONDS"}))
def test_the_key_in_the_file_is_documented(name: str, tmp_path: Path) -> None:
    """And it is the one that works."""
    key = rows(SETTINGS, name)[0].split("|")[2].strip(" `")
    default = settings.DEFAULTS[name]
    (tmp_path / "pluct.toml").write_text(f"{key} = {default if default.isdigit() else json.dumps(default)}")
    assert settings.load({}, tmp_path) == settings.load({"PLUCT_CONFIG": "none.toml"}, tmp_path)


def test_every_key_of_an_action_is_documented_and_no_other() -> None:
    """With its default, in the table of actions."""
    table_rows = re.findall(r"^\| `(\w+)` \| (.+?) \|", sections(SETTINGS)["Actions"], flags=re.M)
    defaults = {
        field.name: "none" if field.default is None else f"`{json.dumps(field.default)}`"
        for field in msgspec.structs.fields(Action)
    }
    assert dict(table_rows) == defaults
    for limit in (TTL_SECONDS_MAX, REPORT_SECONDS_MAX):
        assert f"1 to {limit}" in SETTINGS


def test_every_key_about_money_is_documented_and_no_other() -> None:
    """Of a pack, of `[payments]` with its choices, and of `[http]`."""
    assert re.findall(r"^\| `(\w+)` \|", sections(SETTINGS)["Packs"], flags=re.M) == [
        field.name for field in msgspec.structs.fields(payment_settings._Pack)
    ]
    told = re.findall(r"^\| `(\w+)` \| `(.+?)` \| (.+)", sections(SETTINGS)["Payments"], flags=re.M)
    tables = (payment_settings._Payments, payment_settings._Http)
    fields = [field for kind in tables for field in msgspec.structs.fields(kind)]
    assert {key: default for key, default, _ in told} == {field.name: json.dumps(field.default) for field in fields}
    words = {key: meaning for key, _, meaning in told}
    for field in fields:
        assert not [choice for choice in get_args(field.type) if f'`"{choice}"`' not in words[field.name]]
    assert f"0 to {payment_settings.PROXY_HOPS_MAX}" in words["proxy_hops"]


@pytest.mark.parametrize("text", blocks(SETTINGS + API + GATEWAYS, "toml"))
def test_every_example_file_is_accepted(text: str, tmp_path: Path) -> None:
    """What is shown can be copied."""
    (tmp_path / "pluct.toml").write_text(text)
    given = {name: name * 2 for kind in NAMES for name in described(kind)[0].SECRETS} | SECRETS
    given["STANDARD_WEBHOOKS_SECRET"] = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz"
    assert settings.load(given, tmp_path) != settings.load({"PLUCT_CONFIG": "none.toml"}, tmp_path)


def test_the_example_for_production_starts_in_production(tmp_path: Path) -> None:
    """Once each secret is filled in, and not before."""
    (text,) = blocks(SETTINGS, "ini")
    lines = [line.partition("=") for line in text.splitlines()]
    filled = {name: secrets.token_hex(32) if value == "…" else value for name, _, value in lines}
    found = settings.load(filled, tmp_path)
    assert (found.env, found.user_auth) == ("production", "token")
    with pytest.raises(errors.SetupError):
        settings.load({name: value for name, _, value in lines}, tmp_path)


# The examples


VOLATILE = {
    r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}": "<id>",
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z": "<time>",
    r"[0-9a-f]{12}-\d+": "<request>",
    r"key_[0-9a-f]{16}": "<key>",
    r"eyJ[\w.-]+…?": "<token>",
    r"\b[A-HJKMNP-RTVW-Z][0-9A-HJKMNP-RTVW-Z]{7}\b": "<code>",
}


def steady(value: Any) -> Any:
    """An answer without what differs from run to run."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True)
    for pattern, name in VOLATILE.items():
        text = re.sub(pattern, name, text)
    return json.loads(text)


def examples(page: str) -> Iterator[tuple[str, str | None]]:
    """Every curl command of a page, with the JSON that is shown right after it, if any."""
    pattern = r"^```sh\n(curl .*?)^```$(?:\s+```json\n(.*?)^```$)?"
    for command, answer in re.findall(pattern, page, flags=re.M | re.S):
        yield command, answer or None


def send(client: httpx.Client, command: str, values: dict[str, str]) -> httpx.Response:
    """What curl would do."""
    words = iter(shlex.split(Template(command.replace("\\\n", " ")).substitute(values))[1:])
    headers, body, method, url = {}, None, None, ""
    for word in words:
        if word == "-H":
            name, _, value = next(words).partition(": ")
            headers[name] = value
        elif word == "-d":
            body = next(words)
        elif word == "-X":
            method = next(words)
        else:
            assert not word.startswith("-") and not url, f"an option this test does not know: {word}"
            url = word
    assert method in (None, "POST" if body else "GET")
    return client.request("POST" if body else "GET", url, headers=headers, content=body)


def test_every_example_answers_as_it_says(make_pluct: Callable[..., Pluct]) -> None:
    """On a new ledger with the page's own pluct.toml, from top to bottom."""
    (toml,) = blocks(API, "toml")
    simulator = Simulator("pending")
    with in_a_thread(simulator.app, simulator.close) as daraja_url:
        found = toml.replace("[gateways.daraja]", f'[gateways.daraja]\nbase_url = "{daraja_url}"')
        server = make_pluct(toml=found, **SECRETS)
        server.start()
        run_every_example(server)


def run_every_example(server: Pluct) -> None:
    values = {"ENGINE": server.url, "WEBHOOK_SECRET": WEBHOOK_SECRET, "DARAJA_PATH_TOKEN": PATH_TOKEN}
    for role in ("service", "operator"):
        values[f"{role.upper()}_KEY"] = server.key(role)["Authorization"].removeprefix("Bearer ")
    found = list(examples(API))
    assert len(found) >= len([route for route in ROUTES if route.path.startswith("/v1")])
    for command, shown in found:
        answer = send(server.client, command, values)
        if shown is None:
            assert answer.status_code == 200, (command, answer.text)
            continue
        said, expected = answer.json(), json.loads(shown)
        assert steady(said) == steady(expected), command
        assert answer.status_code in (expected.get("status", 200), 201) or expected.get("status") == "ok"
        values |= {
            "TOKEN": said.get("token", values.get("TOKEN")),
            "TICKET": said.get("ticketId", values.get("TICKET")),
            "CHECKOUT": said.get("checkoutId", values.get("CHECKOUT")),
            "PAYMENT": said["payments"][0]["id"] if "payments" in said else values.get("PAYMENT"),
        }


def test_the_first_two_commands_of_the_readme_work(server: Pluct) -> None:
    """A newcomer's first minute: credits in, a ticket out."""
    commands = [command.replace("http://localhost:8787", "$ENGINE") for command, _ in examples(README)]
    shown = [json.loads(answer) for _, answer in examples(README) if answer]
    answers = [send(server.client, command, {"ENGINE": server.url}) for command in commands]
    assert [answer.status_code for answer in answers] == [200] * len(commands)
    assert [steady(answer.json()) for answer in answers] == steady(shown)
    assert [answer.request.url.path for answer in answers] == ["/add-credits", "/vend-token"]


def test_the_readme_names_the_first_commands() -> None:
    """One to run it, one to test it."""
    commands = "\n".join(blocks(README, "sh"))
    assert re.search(r"^make run\b", commands, flags=re.M)
    assert re.search(r"^make test\b", commands, flags=re.M)


# Links


def anchor(heading: str) -> str:
    """A heading's anchor as forges make it."""
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading.strip().lower())
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def anchors(page: str) -> set[str]:
    """All anchors of a page; of equal headings, all but the first are numbered."""
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6} (.+)$", without_code(page), flags=re.M):
        name, number = anchor(heading), 0
        while (numbered := f"{name}-{number}" if number else name) in found:
            number += 1
        found.add(numbered)
    return found


def dead_links(page: Path, text: str) -> Iterator[str]:
    """Links of a page to files and headings that are not there."""
    prose = re.sub(r"`[^`\n]*`", "", without_code(text))
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, fragment = unquote(target).partition("#")
        file = page.parent / path if path else page
        if not file.exists():
            yield target
            continue
        if fragment and fragment not in anchors(text if file == page else file.read_text("utf-8")):
            yield target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_local_links_resolve(page: Path) -> None:
    """To the file, and to the heading in it."""
    assert list(dead_links(page, page.read_text("utf-8"))) == []


def test_a_dead_link_is_found() -> None:
    """The check bites, and leaves the living alone."""
    text = """# The `one` heading
        [a](api.md) [b](none-such.md) [c](api.md#none-such) [d](api.md#errors) [e](#the-one-heading) [f](#two)
        [g](https://pluct.example) `[h](x)`"""
    assert list(dead_links(ROOT / "docs" / "settings.md", text)) == ["none-such.md", "api.md#none-such", "#two"]
    assert anchors("# A & b: `GET /v1/x`\n## A b\n# A b\n") == {"a--b-get-v1x", "a-b", "a-b-1"}


def missing_decisions(text: str) -> list[str]:
    """Decisions a text names that nobody has written down."""
    written = [path.name for path in (ROOT / "docs" / "decisions").glob("*.md")]
    named_ones = re.findall(r"decisions/(\d{4}[\w-]*(?:\.md)?)", text)
    return [name for name in named_ones if not any(file == name or file.startswith(f"{name}-") for file in written)]


def test_every_decision_that_is_named_is_written_down() -> None:
    """In source, tests and documents."""
    paths = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in {".py", ".md", ".sql"}]
    texts = {path: path.read_text("utf-8") for path in [*paths, *PAGES] if path != Path(__file__)}
    assert {path.name: gone for path, text in texts.items() if (gone := missing_decisions(text))} == {}
    assert any("decisions/" in text for path, text in texts.items() if path.suffix == ".py")


def test_a_missing_decision_is_found() -> None:
    """By number or by name."""
    assert missing_decisions("docs/decisions/9999") == ["9999"]
    assert missing_decisions("(decisions/0001-another-title.md)") == ["0001-another-title.md"]
    assert missing_decisions("see docs/decisions/0001.") == []


def test_decisions_are_numbered_without_a_gap() -> None:
    """A number is never used twice, and the title opens the page."""
    files = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    assert [int(file.name[:4]) for file in files] == list(range(1, len(files) + 1))
    assert [file.name for file in files if not file.read_text("utf-8").startswith(f"# {file.name[:4]} ")] == []
