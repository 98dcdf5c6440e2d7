"""A statement with every defect in it, against a ledger with some of its own: each line is explained."""

import io
import json
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from conftest import Pluct
from console_client import Browser
from paying import Paying, paying
from pluct.errors import InvalidRequest
from pluct.mpesa_statement import NAIROBI, Line, Unreadable, read
from postgres import fresh_database

HEADER = (
    "Receipt No.,Completion Time,Initiation Time,Details,Transaction Status,Paid In,Withdrawn,Balance,"
    "Balance Confirmed,Reason Type,Other Party Info,Linked Transaction ID,A/C No."
)
PREAMBLE = "Organization Name,PLUCT DEMO\nShort Code,174379\n\n"


def line(
    receipt: str, paid: str = "", out: str = "", at: str = "25-11-2026 11:00:00", status: str = "Completed",
    reason: str = "Pay Bill Online", linked: str = "", account: str = "",
) -> str:  # fmt: skip
    amounts = f'"{paid}","{out}","1,000.00",true'
    return f"{receipt},{at},{at},{reason},{status},{amounts},{reason},2547****126 - JANE,{linked},{account}"


def lines(text: str | bytes) -> list[Line | Unreadable]:
    return list(read(io.BytesIO(text.encode() if isinstance(text, str) else text)))


# Reading


def test_a_line_is_read_whatever_the_columns_order() -> None:
    """By name, with more columns or fewer, after any preamble, again after another header."""
    (one,) = lines(PREAMBLE + HEADER + "\n" + line("TKM1ABC234", "1,000.50", account="PLK7Q2M4"))
    assert isinstance(one, Line)
    assert (one.receipt, one.paid_in, one.withdrawn, one.account, one.number) == (
        "TKM1ABC234",
        100_050,
        0,
        "PLK7Q2M4",
        5,
    )
    assert one.at == 1_795_593_600_000  # 11:00 in Nairobi is 08:00 UTC
    other = "A/C No.;Paid In;Transaction Status;Receipt No.;Completion Time\n"
    other += "X;20;Completed;TKM1ABC235;2026-11-25T11:00:00\n"
    two = lines(PREAMBLE + HEADER + "\n" + line("TKM1ABC234", "1") + "\n\n" + other)[1]
    assert isinstance(two, Line) and (two.receipt, two.paid_in, two.account) == ("TKM1ABC235", 2_000, "X")
    assert two.at == one.at


@pytest.mark.parametrize(
    "written",
    ["25-11-2026 11:00:00", "25-11-2026 11:00", "25/11/2026 11:00:00", "2026-11-25 11:00:00", "2026-11-25T11:00:00",
     "2026-11-25T08:00:00Z", "2026-11-25 11:00:00+03:00", "20261125110000"],
)  # fmt: skip
def test_dates(written: str) -> None:
    """In every form, in East Africa Time unless they say another."""
    (one,) = lines(HEADER + "\n" + line("TKM1ABC234", "1", at=written))
    assert isinstance(one, Line) and one.at == 1_795_593_600_000


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_encodings_and_ends_of_lines(encoding: str, end: str) -> None:
    """As portals and spreadsheets write them."""
    text = (HEADER + "\n" + line("TKM1ABC234", "1") + "\n" + line("TKM1ABC235", "2") + "\n").replace("\n", end)
    assert [one.receipt for one in lines(text.encode(encoding))] == ["TKM1ABC234", "TKM1ABC235"]


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (line("TKM1ABC234", "1", at="soon"), "not a date"), (line("TKM1ABC234", "a lot"), "not an amount"),
        (line("x", "1"), "no receipt number"), ("TKM1ABC234,25-11", "cut off"),
        (line("TKM1ABC234", "1")[:40], "cut off"), ("TKM1\0ABC234,,,,Completed,\0", "not a date"),
        ("T" * 30_000, "too long"), (line("TKM1ABC234", "1.001"), "more digits"),
        (line("TKM1ABC234", "1", at="0001-01-01 00:00:00"), "not a date"),
    ],
)  # fmt: skip
def test_a_line_that_is_none_is_named(bad: str, why: str) -> None:
    """With its number, and the lines around it are read."""
    first, found, last = lines("\n".join([HEADER, line("TKM1ABC233", "1"), bad, line("TKM1ABC235", "1")]))
    assert isinstance(first, Line) and isinstance(last, Line) and last.number == 4
    assert isinstance(found, Unreadable) and found.number == 3 and why in found.why


@pytest.mark.parametrize(
    "text", ["", "a,b\n1,2\n", PREAMBLE, "\xff\xfe", "x\n" * 10_000, "Receipt No.\n1\n", "\0" * 99]
)
def test_what_is_no_statement_is_refused(text: str) -> None:
    """With a sentence that says what one looks like."""
    with pytest.raises(InvalidRequest, match="Receipt No"):
        lines(text)


# Comparing


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest) -> dict[str, str]:
    """Where the ledger is."""
    if request.param == "sqlite":
        return {}
    return {"DATABASE_URL": fresh_database(request.getfixturevalue("postgresql_url"))}


def written(world: Paying, code: str) -> Path:
    """A statement of the day with every kind of line, newest first, as the portal gives it."""
    path = world.engine.folder / "statement.csv"
    all_of_it = [
        line("SLK4H7R2T9", "100.00", account=code, at="25-11-2026 23:59:59"),  # never told: credited with --apply
        line("SLK4H7R2T8", "70", account="nobody"),  # never told, of nobody
        line("SLK4H7R2R1", out="-100.00", reason="Pay Bill Reversal", linked="SLK4H7R2T4"),
        line("SLK4H7R2R2", out="20.00", reason="Pay Bill Reversal", linked="SLK4H7R2T7"),  # of nothing known
        line("SLK4H7R2C1", out="-5.00", reason="Pay Bill Charge"),
        line("SLK4H7R2T6", "100.00", status="Failed", account=code),
        line("SLK4H7R2T5", "1,000.00", account="WRONG"),  # unmatched, and known
        line("SLK4H7R2T4", "100.00", account=code),  # reversed since
        line("SLK4H7R2T3", "120.00", account=code),  # told as 100
        line("SLK4H7R2T1", "100.00", account=code),
        line("SLK4H7R2T1", "100.00", account=code),  # the same line twice
        line("SLK4H7R2T0", "100.00", account=code, at="25-11-2026 00:00:00"),
        "broken", ",,,,,,,,,,,,", "Total,,,,,,,,,,,,",
    ]  # fmt: skip
    path.write_text(PREAMBLE + HEADER + "\n" + "\n".join(all_of_it) + "\n")
    return path


def test_every_line_is_explained(make_pluct: Callable[..., Pluct], place: dict[str, str]) -> None:
    """Nothing is changed by looking; `--apply` brings in what is missing, once, and takes back what was reversed."""
    with paying(make_pluct, "cancelled", **place) as world:
        code = world.buy()["paymentCode"]
        for receipt in ("SLK4H7R2T0", "SLK4H7R2T1", "SLK4H7R2T3", "SLK4H7R2T4", "SLK4H7R2U1"):
            world.type_in(code, "100.00", receipt)
        world.type_in("WRONG", "1000.00", "SLK4H7R2T5")
        statement = written(world, code)
        before = world.payments(), world.engine.available("amina")
        found = world.engine.json("payments", "reconcile", str(statement))
        assert before == (world.payments(), world.engine.available("amina")) and before[1] == 50
        assert list(found) == ["matched", "amountDiffers", "providerOnly", "oursOnly", "reversed", "ignored"]
        by_kind = {kind: [row["receipt"] for row in rows] for kind, rows in found.items()}
        by_kind["ignored"].sort()
        assert by_kind == {
            "matched": ["SLK4H7R2T5", "SLK4H7R2T4", "SLK4H7R2T1", "SLK4H7R2T0"],
            "amountDiffers": ["SLK4H7R2T3"],
            "providerOnly": ["SLK4H7R2T9", "SLK4H7R2T8"],
            "oursOnly": ["SLK4H7R2U1"],
            "reversed": ["SLK4H7R2T4", "SLK4H7R2T7"],
            "ignored": ["BROKEN", "SLK4H7R2C1", "SLK4H7R2T1", "SLK4H7R2T6", "TOTAL"],
        }  # fmt: skip
        assert (found["amountDiffers"][0]["amount"], found["amountDiffers"][0]["ours"]) == ("120.00", "100.00")
        assert "still there" in found["reversed"][0]["note"] and "does not know" in found["reversed"][1]["note"]
        assert found["providerOnly"][0]["line"] == 5 and "applied" not in found["providerOnly"][0]
        assert "JANE" not in json.dumps(found)
        applied = world.engine.json("payments", "reconcile", str(statement), "--apply")
        assert [row["applied"] for row in applied["providerOnly"] + applied["reversed"][:1]] == [True] * 3
        assert [row["state"] for row in applied["providerOnly"]] == ["paid", "unmatched"]
        assert world.engine.available("amina") == 50 + 10 - 10
        again = world.engine.json("payments", "reconcile", str(statement), "--apply")
        assert again["providerOnly"] == [] and again["reversed"][0]["note"] == "The ledger knows."
        assert len(again["matched"]) == 6 and world.engine.available("amina") == 50
        world.engine.run("check")
        shown = world.engine.run("payments", "reconcile", str(statement), COLUMNS="200").stdout
        assert "SLK4H7R2U1" in shown and "only in the ledger" in shown and "1,470.00" in shown
        missing = world.engine.run("payments", "reconcile", "nothing.csv", exit_code=2)
        assert "cannot be read" in missing.stderr
        (world.engine.folder / "none.csv").write_text("a,b\n")
        assert "Receipt No." in world.engine.run("payments", "reconcile", "none.csv", exit_code=1).stderr


def test_what_was_paid_by_query_alone_is_seen(make_pluct: Callable[..., Pluct], place: dict[str, str]) -> None:
    """Credits without a receipt are in the ledger only, within the statement's period, until a line brings theirs."""
    with paying(make_pluct, "none", **place) as world:
        codes = {}
        for user in ("amina", "juma"):
            checkout = world.buy(user)
            codes[user] = world.becomes(checkout["checkoutId"], "paid")["paymentCode"]
        assert [(payment["credits"], payment["reference"]) for payment in world.payments()] == [(10, None)] * 2
        by_program = world.engine.json("payments", "list")["payments"]
        shown_alone = world.engine.json("payments", "show", by_program[0]["id"])
        assert by_program == world.payments() and shown_alone["reference"] is None
        at = datetime.now(NAIROBI)
        around = [line(f"SLK4H7R2C{day}", out="5", at=(at + timedelta(day - 1)).isoformat()) for day in (0, 2)]
        path = world.engine.folder / "statement.csv"
        path.write_text("\n".join([HEADER, *around]))
        found = world.engine.json("payments", "reconcile", "statement.csv")["oursOnly"]
        assert {row["userId"] for row in found} == set(codes)
        assert {(row["receipt"], row["ours"], row["state"]) for row in found} == {(None, "100.00", "paid")}
        assert {row["note"] for row in found} == {"Paid by query; no receipt yet."}
        shown = world.engine.run("payments", "reconcile", "statement.csv", COLUMNS="200").stdout
        assert "Paid by query" in shown and " – " in shown and "None" not in shown
        browser = Browser(world.engine.url)
        browser.sign_in(world.operator)
        browser.get("/reconcile")
        page = browser.client.post(
            "/console/reconcile", data=browser.fields("/reconcile"), files={"statement": path.read_bytes()}
        ).text
        assert "Paid by query" in page and f'{found[0]["paymentId"]}">–</a>' in page and "None" not in page
        brought = line("SLK4H7R2Q1", "100.00", account=codes["amina"], at=at.isoformat())
        path.write_text("\n".join([HEADER, *around, brought]))
        applied = world.engine.json("payments", "reconcile", "statement.csv", "--apply")
        assert [row["userId"] for row in applied["oursOnly"]] == ["juma"]
        assert [row["userId"] for row in applied["providerOnly"]] == ["amina"] and len(world.payments()) == 2
        assert world.engine.available("amina") == 10
        path.write_text("\n".join([HEADER, around[0]]))  # a statement of another time
        assert world.engine.json("payments", "reconcile", "statement.csv")["oursOnly"] == []


LONG = """
import resource, sys
from pluct.cli import main
sys.argv = ["pluct", "payments", "reconcile", "long.csv", "--json"]
try:
    main()
finally:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
"""


def test_a_long_statement_takes_no_more_memory(make_pluct: Callable[..., Pluct]) -> None:
    """Peak memory of the program over ten times as many lines: less than half as much again."""
    engine, peaks = make_pluct(), []
    engine.run("migrate")
    for count in (5_000, 50_000):
        with (engine.folder / "long.csv").open("w") as file:
            file.write(HEADER + "\n")
            for number in range(count):
                file.write(line(f"T{number:09}", "100.00", account="PLK7Q2M4") + "\n")
        done = subprocess.run(
            [sys.executable, "-c", LONG], cwd=engine.folder, env=engine.environment, capture_output=True, text=True,
            check=True,
        )  # fmt: skip
        found: Any = json.loads(done.stdout)
        assert len(found["providerOnly"]) == count
        peaks.append(int(done.stderr.split()[-1]))
    assert peaks[1] < peaks[0] * 1.5, peaks
