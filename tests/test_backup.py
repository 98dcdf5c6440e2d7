"""Backups: whole while credits move, sound before they have their name, and never over anything."""

import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing

import httpx

from conftest import Pluct


def test_a_backup_under_load_restores_to_one_moment(make_pluct: Callable[..., Pluct]) -> None:
    """Taken while vends go on: the copy is sound, and its entries are exactly the oldest ones of the ledger."""
    engine = make_pluct()
    engine.start()
    user, stop = engine.funded(100_000), threading.Event()

    def vend() -> None:
        with httpx.Client(timeout=30) as client:
            while not stop.is_set():
                client.post(engine.url + "/vend-token", json={"userId": user}).raise_for_status()

    threads = [threading.Thread(target=vend) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        engine.run("backup", "copy.db")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert engine.stop() == 0
    other = make_pluct("restored")
    other.run("restore", str(engine.folder / "copy.db"))
    assert other.json("check")["ok"]
    query = "SELECT * FROM entries ORDER BY number"
    with closing(sqlite3.connect(other.database)) as restored, closing(sqlite3.connect(engine.database)) as whole:
        kept = restored.execute(query).fetchall()
        assert len(kept) > 1
        assert kept == whole.execute(query).fetchall()[: len(kept)]


def test_nothing_is_overwritten(make_pluct: Callable[..., Pluct]) -> None:
    """A backup wants a new name; a restore wants an empty ledger, or to be told."""
    engine = make_pluct()
    engine.run("credits", "grant", "amina", "5", "--reason", "test")
    engine.run("backup", "copy.db")
    assert "exists already" in engine.run("backup", "copy.db", exit_code=2).stderr
    engine.run("credits", "grant", "amina", "2", "--reason", "test")
    assert "not empty" in engine.run("restore", "copy.db", exit_code=2).stderr
    assert engine.json("credits", "show", "amina")["available"] == 7
    engine.run("restore", "copy.db", "--replace")
    assert engine.json("credits", "show", "amina")["available"] == 5
    assert sorted(path.name for path in engine.folder.glob(".pluct-backup-*")) == []


def test_a_served_ledger_is_not_restored(make_pluct: Callable[..., Pluct]) -> None:
    """Not even when told to replace it."""
    engine = make_pluct()
    engine.start()
    user = engine.funded(3)
    engine.run("backup", "copy.db")
    engine.funded(1)
    refused = engine.run("restore", "copy.db", "--replace", exit_code=2)
    assert "not empty" not in refused.stderr
    assert str(engine.database) in refused.stderr and "Stop the server first" in refused.stderr
    assert engine.available(user) == 3
    assert "restore and copy: stop the servers first" in " ".join(engine.run("--help").stdout.split())


def test_a_broken_ledger_makes_no_backup(make_pluct: Callable[..., Pluct]) -> None:
    """What check finds broken is not kept, and not restored."""
    engine = make_pluct()
    engine.run("credits", "grant", "amina", "5", "--reason", "test")
    with closing(sqlite3.connect(engine.database)) as connection, connection:
        connection.execute("UPDATE wallets SET held = held + 1")
    assert "broken" in engine.run("backup", "copy.db", exit_code=2).stderr
    assert not (engine.folder / "copy.db").exists()


def test_postgresql_has_its_own_tools(make_pluct: Callable[..., Pluct]) -> None:
    """It is named."""
    engine = make_pluct()
    refused = engine.run("backup", "copy.db", exit_code=2, DATABASE_URL="postgresql://nobody@127.0.0.1:1/none")
    assert "pg_dump" in refused.stderr


def test_what_is_no_backup_is_said(make_pluct: Callable[..., Pluct]) -> None:
    """A file that is something else, and a folder where the ledger should be."""
    engine = make_pluct()
    (engine.folder / "wallets.json").write_text('[{"key": "amina", "value": "12"}]' * 100)
    refused = engine.run("restore", "wallets.json", exit_code=2, COLUMNS="300")
    assert "wallets.json is no ledger and no backup of one" in refused.stderr and "pluct backup" in refused.stderr
    assert not engine.database.exists()
    for command in (["check"], ["keys", "create", "--role", "mint", "--name", "x"]):
        refused = engine.run(*command, exit_code=2, DATABASE_URL=f"sqlite:///{engine.folder}")
        assert f"{engine.folder} is a folder" in refused.stderr
