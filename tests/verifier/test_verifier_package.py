"""The package stands alone, and its documentation says what is so."""

import ast
import asyncio
import inspect
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from conftest import Pluct
from pluct_verifier import SeenFile, SeenMemory, SeenRedis, Verifier, keys, tickets, verifier
from test_tidy import imports, source, undocumented

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "verifier"
SOURCES = sorted((FOLDER / "src" / "pluct_verifier").glob("*.py"))
README = (FOLDER / "README.md").read_text("utf-8")
SECURITY = (ROOT / "docs" / "security.md").read_text("utf-8").partition("## RFC 8725, point by point: the verifier")[2]

#: What each module may import beside the standard library and its own package.
ALLOWED = {
    "keys": {"joserfc"}, "verifier": {"joserfc"}, "calls": {"httpx"}, "seen": {"redis"},
    "fastapi": {"fastapi"}, "starlette": {"starlette"}, "django": {"django", "asgiref"}, "flask": {"flask"},
}  # fmt: skip


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_a_module_imports_nothing_of_the_engine_and_no_more_than_it_needs(path: Path) -> None:
    """Each adapter its framework, HTTP and Redis where they are used, and everywhere else the JOSE library alone."""
    found = {name.partition(".")[0] for _, name in imports(source(path))} - set(sys.stdlib_module_names)
    assert found - {"pluct_verifier"} == ALLOWED.get(path.stem, set())


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_everything_public_is_documented(path: Path) -> None:
    """As in the engine."""
    assert list(undocumented(source(path))) == []


def test_the_package_builds_as_a_wheel_of_its_own(tmp_path: Path) -> None:
    """With its types, one dependency, and extras for the rest; and it runs without the engine, httpx or redis."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=FOLDER, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60)
    (wheel,) = tmp_path.glob("pluct_verifier-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        (metadata,) = (archive.read(name).decode() for name in archive.namelist() if name.endswith("/METADATA"))
    assert names == {f"pluct_verifier/{path.name}" for path in SOURCES} | {"pluct_verifier/py.typed"}
    needed = re.findall(r"^Requires-Dist: (\w+)[^;\n]*$", metadata, flags=re.M)
    assert needed == ["joserfc"]
    extras = set(re.findall(r"^Provides-Extra: (\w+)$", metadata, flags=re.M))
    assert extras == {"httpx", "jwks", "strict", "redis", "fastapi", "starlette", "django", "flask"}
    script = f"""
import sys
sys.path.insert(0, {str(wheel)!r})
for name in ("pluct", "httpx", "redis"):
    sys.modules[name] = None  # as if it were not installed
from pluct_verifier import SeenMemory, TicketRefused, Verifier
verifier = Verifier.once(audience="premium", secret="s" * 32, seen=SeenMemory())
try:
    verifier.accept("x")
except TicketRefused as refused:
    print(refused.code, sys.modules["pluct_verifier"].__file__)
"""
    said = subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.PIPE, text=True, timeout=60)
    assert said.stdout.startswith(f"ticket_invalid {wheel}")


def test_both_packages_come_from_one_release() -> None:
    """They have one version, and run on the same Pythons."""
    engine, own = (tomllib.loads((folder / "pyproject.toml").read_text())["project"] for folder in (ROOT, FOLDER))
    assert (engine["version"], engine["requires-python"]) == (own["version"], own["requires-python"])
    assert (ROOT / "LICENSE").read_bytes() == (FOLDER / "LICENSE").read_bytes()


# The documentation


def test_three_added_lines_protect_a_fastapi_backend(server: Pluct) -> None:
    """Those of the README, on a real engine: without a ticket nothing, with one once."""
    (shown,) = re.findall(r"^```diff\n(.*?)^```$", (ROOT / "README.md").read_text("utf-8"), flags=re.M | re.S)
    lines = shown.splitlines()
    assert len([line for line in lines if line.startswith("+")]) == 3
    assert not [line for line in lines if line[:1] not in ("+", " ", "")]
    key = server.key("service")["Authorization"].removeprefix("Bearer ")
    after = "\n".join(line[1:] for line in lines)
    assert "http://127.0.0.1:8787" in after and "pluct_service_…" in after
    made: dict[str, Any] = {}
    exec(after.replace("http://127.0.0.1:8787", server.url).replace("pluct_service_…", key), made)
    server.fund("amina", 1)
    token = server.post("/vend-token", {"userId": "amina"}).json()["token"]

    async def asked() -> list[int]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(made["app"]), base_url="http://app") as client:
            headers = [{}, {"authorization": f"Bearer {token}"}, {"authorization": f"Bearer {token}"}]
            answers = [await client.post("/transcribe?recording=a", headers=each) for each in headers]
        await made["paid"]._verifier._http._waiting.get().aclose()
        return [answer.status_code for answer in answers]

    assert asyncio.run(asked()) == [401, 200, 401]
    before: dict[str, Any] = {}
    exec("\n".join(line[1:] for line in lines if not line.startswith("+")), before)


def names_in(path: Path) -> set[str]:
    """The names of a file's tests."""
    return {node.name for node in ast.parse(path.read_text("utf-8")).body if isinstance(node, ast.FunctionDef)}


def test_every_point_of_rfc_8725_has_its_tests() -> None:
    """The table names twelve points, and each test that is named after one."""
    rows = re.findall(r"^\| 3\.(\d+) .*\| (.*) \|$", SECURITY, flags=re.M)
    assert [int(point) for point, _ in rows] == list(range(1, 13))
    named = {name for point, cell in rows for name in re.findall(rf"`(test_3_{point}_\w+)`", cell)}
    there = {name for name in names_in(Path(__file__).parent / "test_verifier_tokens.py") if name.startswith("test_3_")}
    assert named == there
    for name in re.findall(r"`(test_\w+)`", SECURITY):
        assert name in names_in(Path(__file__).parent / "test_verifier_tokens.py")


def test_every_code_of_a_refusal_is_documented() -> None:
    """With its status, and no code that is never used."""
    table = README.partition("### Refusals")[2].partition("##")[0]
    for code in tickets.SENTENCES:
        (row,) = re.findall(rf"^\| .*`{code}`.* \| (\d+) \|", table, flags=re.M)
        assert int(row) == tickets.TicketRefused(code).status
    used = {code for path in SOURCES for code in re.findall(r'TicketRefused\("(\w+)"', path.read_text("utf-8"))}
    assert used == set(tickets.SENTENCES)


def default(of: Callable[..., Any], name: str) -> Any:
    """The default of a parameter."""
    return inspect.signature(of).parameters[name].default


def test_the_limits_that_are_documented_are_the_ones_there_are() -> None:
    """A number on the page is a number of the program."""
    assert f"SeenMemory(size_max={default(SeenMemory, 'size_max'):_})" in README
    assert f"SeenFile(path, size_max={default(SeenFile, 'size_max'):_})" in README
    assert f"SeenRedis(url, skew_seconds={default(SeenRedis, 'skew_seconds'):g})" in README
    assert f"`leeway_seconds`, {default(Verifier.offline, 'leeway_seconds'):g} by default" in README
    assert default(SeenRedis, "skew_seconds") == 2 * verifier.LEEWAY_SECONDS
    assert f"{keys.FRESH_SECONDS_MAX:g} s at most" in README and "once in ten seconds" in README
    assert (keys.ASK_SECONDS_MIN, keys.STALE_SECONDS_MAX, keys.SECRET_BYTES_MIN) == (10, 86_400, 32)
    assert f"at most {tickets.TOKEN_LENGTH_MAX} characters" in (ROOT / "docs" / "verifying.md").read_text("utf-8")
