"""Importing the old key-value ledger: one grant per user, once, and a reason for every key that is refused."""

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from pluct.commands import once, text
from pluct.engine import Engine
from pluct.errors import IdempotencyKeyReused, InvalidRequest, Refusal, SetupError
from pluct.model import AMOUNT_MAX

FILE_BYTES_MAX = 512 * 1024 * 1024
_AT_ONCE = 500
_PREFIXES = ("user:", "credits:")


class Refused(msgspec.Struct, frozen=True):
    """A key that was not imported."""

    key: str
    reason: str


class Report(msgspec.Struct):
    """What came of an import."""

    imported: int = 0
    already: int = 0  # in an earlier run
    empty: int = 0  # without a credit: nothing to grant
    credits: int = 0
    refused: list[Refused] = []


def read(file: Path) -> list[Any]:
    """The file's pairs, not yet looked at. Raises `SetupError`."""
    try:
        if file.stat().st_size > FILE_BYTES_MAX:
            raise SetupError(f"{file} is larger than {FILE_BYTES_MAX >> 20} MiB; split it and import the parts.")
        return msgspec.json.decode(file.read_bytes(), type=list[Any])
    except OSError as error:
        raise SetupError(f"{file} cannot be read: {error.strerror}.") from None
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise SetupError(f'{file} is not a JSON list of {{"key": …, "value": …}}: {error}.') from None


async def run(engine: Engine, pairs: list[Any], actor: str, progress: Callable[[int], None]) -> Report:
    """Grant each user what the old ledger held. Idempotent per user."""
    report = Report()
    amounts = _amounts(pairs, report, progress)
    users = list(amounts)
    for start in range(0, len(users), _AT_ONCE):
        part = users[start : start + _AT_ONCE]
        await asyncio.gather(*(_grant(engine, user, *amounts[user], actor, report) for user in part))
        progress(sum(len(amounts[user][1]) for user in part))
    return report


def _amounts(pairs: list[Any], report: Report, progress: Callable[[int], None]) -> dict[str, tuple[int, list[str]]]:
    """The amount of each user with the keys that named them; what cannot be read or contradicts itself is refused."""
    found: dict[str, dict[str, int]] = {}
    for at, pair in enumerate(pairs):
        key = pair.get("key") if isinstance(pair, dict) else None
        try:
            user, amount = _pair(pair)
        except InvalidRequest as error:
            report.refused.append(Refused(key if isinstance(key, str) else f"#{at + 1}", error.sentence))
            progress(1)
            continue
        assert isinstance(key, str)
        same = found.setdefault(user, {})
        if same.get(key, amount) != amount:
            key = f"{key} (#{at + 1})"  # one key twice with two values
        same[key] = amount
    amounts = {}
    for user, keys in found.items():
        values = sorted(set(keys.values()))
        if len(values) > 1:
            reason = f"it names one user with different values: {', '.join(map(str, values))}"
            report.refused += [Refused(key, reason) for key in keys]
            progress(len(keys))
        else:
            amounts[user] = values[0], list(keys)
    return amounts


def _pair(pair: Any) -> tuple[str, int]:
    if not isinstance(pair, dict) or not isinstance(pair.get("key"), str) or "value" not in pair:
        raise InvalidRequest('it is not like {"key": "user", "value": "12"}')
    key, value = pair["key"], pair["value"]
    if pair.get("base64"):
        raise InvalidRequest("its value is binary (base64), not a number")
    user = next((key.removeprefix(prefix) for prefix in _PREFIXES if key.startswith(prefix)), key)
    try:
        text(user, "the user id")
    except InvalidRequest as error:
        raise InvalidRequest(error.sentence) from None
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not re.fullmatch(r"[0-9]{1,19}", value):
        raise InvalidRequest(f"its value is not a whole number of credits: {str(value)[:40]!r}")
    amount = int(value)
    if amount > AMOUNT_MAX:
        raise InvalidRequest(f"its value is more than {AMOUNT_MAX}, the most that is granted at once")
    return user, amount


async def _grant(engine: Engine, user: str, amount: int, keys: list[str], actor: str, report: Report) -> None:
    if amount == 0:
        report.empty += 1
        return
    try:
        granted = await engine.grant(
            user, amount, source="import", actor=actor, reason="imported from the key-value ledger",
            claim=once("import-kv", user, "", amount),
        )  # fmt: skip
    except IdempotencyKeyReused:
        reason = "this user was imported before with another value; correct it with: pluct credits adjust"
        report.refused += [Refused(key, reason) for key in keys]
    except Refusal as refusal:
        report.refused += [Refused(key, refusal.sentence) for key in keys]
    else:
        if granted.replayed:
            report.already += 1
        else:
            report.imported += 1
            report.credits += amount
