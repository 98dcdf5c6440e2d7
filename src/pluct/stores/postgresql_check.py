"""`pluct check` over PostgreSQL: every invariant of `ledger.py`, over one snapshot, as queries.

Each query names what is wrong, one row per finding: subject, found. The snapshot is a read-only REPEATABLE READ
transaction, so running servers are neither stopped nor misread; sorting spills to the server's temporary files.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import asyncpg
import msgspec
from asyncpg import Connection

from pluct.commands import reference_key
from pluct.stores import Violation, payment_checks

#: Findings shown per invariant.
FINDINGS_MAX = 20
#: Rows looked at in Python at once.
PAGE = 10_000

JSON = "what is kept as JSON can be read"
REFERENCE = "a payment reference is claimed by the one grant it has"
#: What is kept as JSON: the table, how its rows are named, and the column.
KEPT_AS_JSON = (
    ("wallets", "'wallet ' || user_id", "lots"),
    ("tickets", "'ticket ' || id", "taken"),
    ("claims", "'claim ' || encode(key, 'hex')", "outcome"),
    ("wallets", "'wallet ' || user_id", "standing"),
    ("payments", "'payment ' || id", "disputes"),
    ("payments", "'payment ' || id", "priced"),
)


def _base64url(data: str) -> str:
    return f"translate(encode({data}, 'base64'), '+/=', '-_')"


CHECKS = {
    "lots sum to available": """
        SELECT user_id, 'lots ' || total || ', available ' || available FROM (
          SELECT user_id, available,
                 (SELECT coalesce(sum((lot->>2)::bigint), 0) FROM json_array_elements(lots::json) lot) AS total
          FROM wallets) found
        WHERE total <> available""",
    "every lot has something left and the earliest expiry is the wallet's": """
        SELECT user_id, lots FROM wallets
        WHERE EXISTS (SELECT 1 FROM json_array_elements(lots::json) lot
                      WHERE (lot->>2)::numeric <= 0 OR json_array_length(lot) <> 6
                         OR json_typeof(lot->2) <> 'number')
           OR next_expiry_at IS DISTINCT FROM
              (SELECT min((lot->>5)::bigint) FROM json_array_elements(lots::json) lot)""",
    "a lot is left of a grant": """
        SELECT w.user_id, 'lot ' || lot FROM wallets w CROSS JOIN json_array_elements(w.lots::json) lot
          LEFT JOIN entries e ON e.user_id = w.user_id AND e.number = (lot->>0)::bigint
        WHERE e.grant_id IS DISTINCT FROM lot->>1""",
    "balances are within their bounds": """
        SELECT user_id, 'available ' || available || ', held ' || held || ', debt ' || debt FROM wallets
        WHERE available NOT BETWEEN 0 AND 9007199254740991 OR held NOT BETWEEN 0 AND 9007199254740991
           OR debt < 0 OR (debt > 0 AND available > 0)""",
    "held is the sum of open holds": """
        SELECT user_id, 'wallet ' || sum(held) || ', tickets ' || sum(open) FROM (
          SELECT user_id, held, 0 AS open FROM wallets WHERE held <> 0
          UNION ALL
          SELECT user_id, 0, cost - captured - returned FROM tickets WHERE due_at IS NOT NULL) found
        GROUP BY user_id HAVING sum(held) <> sum(open)""",
    "a balance is the sum of its entries, counted without a gap": """
        SELECT coalesce(w.user_id, e.user_id),
               'wallet ' || coalesce(w.available || '/' || w.held || '/' || w.debt || ' after ' || w.entries, 'none')
               || ', entries '
               || coalesce(e.available || '/' || e.held || '/' || e.debt || ' after ' || e.entries, 'none')
        FROM wallets w FULL JOIN (
          SELECT user_id, count(*) AS entries, max(number) AS last,
                 sum(amount * ((credit = 'user:' || user_id)::int - (debit = 'user:' || user_id)::int)) AS available,
                 sum(amount * ((credit = 'held:' || user_id)::int - (debit = 'held:' || user_id)::int)) AS held,
                 sum(amount * ((debit = 'debt:' || user_id)::int - (credit = 'debt:' || user_id)::int)) AS debt
          FROM entries GROUP BY user_id) e ON e.user_id = w.user_id
        WHERE w.user_id IS NULL OR w.available <> coalesce(e.available, 0) OR w.held <> coalesce(e.held, 0)
           OR w.debt <> coalesce(e.debt, 0) OR w.entries <> coalesce(e.entries, 0) OR e.last <> e.entries""",
    "an entry follows the one before it": """
        SELECT e.id, 'entry ' || e.number || ' of ' || e.user_id || ' after entry '
               || coalesce(p.number::text, 'none')
        FROM entries e LEFT JOIN entries p ON p.id = e.previous_id
        WHERE (e.number > 1 AND p.id IS NULL) OR p.user_id <> e.user_id OR p.number <> e.number - 1
           OR e.available_after <> coalesce(p.available_after, 0)
              + e.amount * ((e.credit = 'user:' || e.user_id)::int - (e.debit = 'user:' || e.user_id)::int)
           OR e.held_after <> coalesce(p.held_after, 0)
              + e.amount * ((e.credit = 'held:' || e.user_id)::int - (e.debit = 'held:' || e.user_id)::int)""",
    "a wallet points to its last entry": """
        SELECT w.user_id, 'last entry ' || coalesce(w.last_entry_id, 'none')
        FROM wallets w LEFT JOIN entries e ON e.id = w.last_entry_id
        WHERE (e.id IS NULL AND (w.entries <> 0 OR w.last_entry_id IS NOT NULL))
           OR e.user_id <> w.user_id OR e.number <> w.entries""",
    "an entry moves credits between the accounts of its kind": """
        SELECT id, kind || ': ' || debit || ' to ' || credit FROM entries WHERE NOT CASE kind
          WHEN 'grant' THEN debit LIKE 'issued:%' AND credit = 'user:' || user_id
          WHEN 'vend' THEN debit = 'user:' || user_id AND credit LIKE 'earned:%'
          WHEN 'hold' THEN debit = 'user:' || user_id AND credit = 'held:' || user_id
          WHEN 'capture' THEN debit = 'held:' || user_id AND credit LIKE 'earned:%'
          WHEN 'return' THEN debit = 'held:' || user_id AND credit = 'user:' || user_id
          WHEN 'refund' THEN debit LIKE 'earned:%' AND credit = 'user:' || user_id
          WHEN 'expire' THEN debit = 'user:' || user_id AND credit = 'expired'
          WHEN 'adjust' THEN 'adjusted' IN (debit, credit) AND 'user:' || user_id IN (debit, credit)
          WHEN 'repay' THEN debit = 'user:' || user_id AND credit = 'debt:' || user_id
          WHEN 'clawback' THEN debit IN ('user:' || user_id, 'debt:' || user_id) AND credit LIKE 'issued:%'
          WHEN 'restore' THEN debit LIKE 'issued:%' AND credit = 'user:' || user_id
          ELSE false END""",
    "a ticket's entries say what the ticket says": """
        SELECT ticket_id, 'ticket ' || sum(cost) || '/' || sum(kept) || ', entries ' || sum(taken) || '/' || sum(earned)
        FROM (
          SELECT id AS ticket_id, user_id, cost, captured AS kept, 0 AS taken, 0 AS earned FROM tickets
          UNION ALL
          SELECT ticket_id, user_id, 0, 0, amount * (debit = 'user:' || user_id)::int,
                 amount * ((credit LIKE 'earned:%')::int - (debit LIKE 'earned:%')::int)
          FROM entries WHERE ticket_id IS NOT NULL) found
        GROUP BY ticket_id, user_id HAVING sum(cost) <> sum(taken) OR sum(kept) <> sum(earned)""",
    "captured and returned make the cost once a ticket is settled": """
        SELECT id, state || ' ' || captured || ' + ' || returned || ' of ' || cost FROM tickets
        WHERE captured + returned <> CASE WHEN due_at IS NULL THEN cost ELSE 0 END
           OR (due_at IS NULL) <> (state IN ('captured', 'voided', 'expired'))
           OR (SELECT coalesce(sum((lot->>2)::bigint), 0) FROM json_array_elements(taken::json) lot) <> cost""",
    "credits are spent on a ticket": """
        SELECT id, kind || ' of ' || amount || ' by ' || user_id FROM entries
        WHERE kind IN ('vend', 'hold', 'capture', 'return', 'refund') AND ticket_id IS NULL""",
    "a claimed grant was made": """
        SELECT encode(c.key, 'hex'), c.outcome FROM claims c LEFT JOIN entries e
          ON e.grant_id = c.outcome::json->>'grant_id' AND e.credit = 'user:' || c.user_id
        WHERE c.outcome::json->>'type' = 'granted' AND e.id IS NULL""",
    "a claim's ticket exists": """
        SELECT encode(c.key, 'hex'), c.outcome FROM claims c LEFT JOIN tickets t ON t.id = c.outcome::json->>'ticket_id'
        WHERE c.outcome::json->>'type' = 'vended' AND (t.id IS NULL OR t.user_id <> c.user_id)""",
    "a signing key's id is its thumbprint": f"""
        SELECT kid, thumbprint FROM (
          SELECT kid, {_base64url("sha256(convert_to(jwk, 'UTF8'))")} AS thumbprint FROM (
            SELECT kid, '{{"crv":"Ed25519","kty":"OKP","x":"' || {_base64url("public")} || '"}}' AS jwk
            FROM signing_keys) AS keys) AS found
        WHERE kid <> thumbprint""",
}
ALL = CHECKS | payment_checks.checks(payment_checks.POSTGRESQL)

#: Of a payment it is enough that somebody's grant keeps its reference from being granted again.
_REFERENCED = """
    SELECT reference, grant_id FROM entries WHERE reference IS NOT NULL
    UNION ALL SELECT reference, NULL FROM payments WHERE reference IS NOT NULL AND minted > 0"""
_REFERENCES = """
    SELECT e.reference, e.grant_id, c.outcome::json->>'grant_id' FROM unnest($1::text[], $2::text[], $3::bytea[])
      AS e (reference, grant_id, key) LEFT JOIN claims c ON c.key = e.key
    WHERE c.outcome::json->>'grant_id' IS NULL OR c.outcome::json->>'grant_id' <> e.grant_id"""

Findings = list[tuple[str, str]]


async def check(connection: "Connection[Any]", progress: Callable[[str, int, int], None]) -> list[Violation]:
    """Run every check over one snapshot; at most `FINDINGS_MAX` findings of each are reported."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        return await check_within(connection, progress)


async def check_within(connection: "Connection[Any]", progress: Callable[[str, int, int], None]) -> list[Violation]:
    """The same, over what the transaction sees that the caller is in."""
    await connection.execute("SET LOCAL statement_timeout = 0")
    steps: dict[str, Callable[[], Awaitable[Findings]]] = {JSON: partial(_unreadable, connection)}
    steps |= {invariant: partial(_query, connection, query) for invariant, query in ALL.items()}
    steps[REFERENCE] = partial(_references, connection)
    violations: list[Violation] = []
    for done, (invariant, step) in enumerate(steps.items()):
        progress(invariant, done, len(steps))
        try:
            async with connection.transaction():
                findings = await step()
        except asyncpg.DataError as error:  # JSON that is none, or not of the shape that the query reads
            findings = [] if violations else [("the ledger", f"it cannot be read: {error}")]
        violations += [Violation(invariant, *finding) for finding in findings]
    progress("done", len(steps), len(steps))
    return violations


async def _query(connection: "Connection[Any]", query: str) -> Findings:
    return [(str(subject), str(found)) for subject, found in await connection.fetch(f"{query} LIMIT {FINDINGS_MAX}")]


async def _unreadable(connection: "Connection[Any]") -> Findings:
    """What is kept as JSON and is none. PostgreSQL reads it all at once; where it stumbles, Python says over what.

    (To be asked row by row, it must be version 16.)
    """
    findings: Findings = []
    for table, name, column in KEPT_AS_JSON:
        try:
            async with connection.transaction():
                await connection.execute(f"SELECT count({column}::json) FROM {table}")
        except asyncpg.DataError as error:
            found = await _bad_rows(connection, f"SELECT {name}, {column} FROM {table} WHERE {column} IS NOT NULL")
            findings += found or [(table, str(error))]
    return findings[:FINDINGS_MAX]


async def _bad_rows(connection: "Connection[Any]", query: str) -> Findings:
    found: Findings = []
    rows = await connection.cursor(query)
    while len(found) < FINDINGS_MAX and (page := await rows.fetch(PAGE)):
        for name, text in page:
            try:
                msgspec.json.decode(text)
            except msgspec.DecodeError:
                found.append((name, text))
    return found


async def _references(connection: "Connection[Any]") -> Findings:
    """References whose claim is not of their grant. Keys are hashes, which Python makes, a page at a time."""
    found: Findings = []
    rows = await connection.cursor(_REFERENCED)
    while len(found) < FINDINGS_MAX and (page := await rows.fetch(PAGE)):
        references, grants = [row[0] for row in page], [row[1] for row in page]
        keys = [reference_key(reference) for reference in references]
        for reference, grant_id, claimed in await connection.fetch(_REFERENCES, references, grants, keys):
            found.append((reference, f"grant {grant_id}, claimed by {claimed}"))
    return found[:FINDINGS_MAX]
