"""`pluct check` over SQLite: every invariant of `ledger.py`, over one snapshot of the whole file, as queries.

Each query names what is wrong, one row per finding: subject, found. The snapshot is a read transaction, so a running
server is neither stopped nor misread. Sorting spills to temporary files, so memory stays bounded.
"""

import sqlite3
from collections.abc import Callable
from pathlib import Path

from pluct.commands import reference_key
from pluct.model import thumbprint
from pluct.stores import Violation, payment_checks

#: Findings shown per invariant.
FINDINGS_MAX = 20

CHECKS = {
    "the file itself is intact": """
        SELECT 'the file', integrity_check FROM pragma_integrity_check
        WHERE integrity_check <> 'ok' AND integrity_check NOT LIKE 'CHECK constraint failed in %'""",
    "what is kept as JSON can be read": """
        SELECT 'wallet ' || user_id, lots FROM wallets WHERE NOT json_valid(lots)
        UNION ALL SELECT 'ticket ' || id, taken FROM tickets WHERE NOT json_valid(taken)
        UNION ALL SELECT 'claim ' || hex(key), outcome FROM claims WHERE NOT json_valid(outcome)
        UNION ALL SELECT 'wallet ' || user_id, standing FROM wallets
          WHERE standing IS NOT NULL AND NOT json_valid(standing)
        UNION ALL SELECT 'payment ' || id, disputes || priced FROM payments
          WHERE NOT json_valid(disputes) OR NOT json_valid(priced)""",
    "lots sum to available": """
        SELECT user_id, 'lots ' || total || ', available ' || available FROM (
          SELECT user_id, available,
                 (SELECT coalesce(sum(json_extract(value, '$[2]')), 0) FROM json_each(lots)) AS total FROM wallets)
        WHERE total <> available""",
    "every lot has something left and the earliest expiry is the wallet's": """
        SELECT user_id, lots FROM wallets
        WHERE EXISTS (SELECT 1 FROM json_each(lots) WHERE json_extract(value, '$[2]') <= 0
                      OR json_array_length(value) <> 6 OR json_type(value, '$[2]') <> 'integer')
           OR next_expiry_at IS NOT (SELECT min(json_extract(value, '$[5]')) FROM json_each(lots))""",
    "a lot is left of a grant": """
        SELECT w.user_id, 'lot ' || l.value FROM wallets w, json_each(w.lots) l
          LEFT JOIN entries e ON e.user_id = w.user_id AND e.number = json_extract(l.value, '$[0]')
        WHERE e.grant_id IS NOT json_extract(l.value, '$[1]')""",
    "balances are within their bounds": """
        SELECT user_id, 'available ' || available || ', held ' || held || ', debt ' || debt FROM wallets
        WHERE available NOT BETWEEN 0 AND 9007199254740991 OR held NOT BETWEEN 0 AND 9007199254740991
           OR debt < 0 OR (debt > 0 AND available > 0)""",
    "held is the sum of open holds": """
        SELECT user_id, 'wallet ' || sum(held) || ', tickets ' || sum(open) FROM (
          SELECT user_id, held, 0 AS open FROM wallets WHERE held <> 0
          UNION ALL
          SELECT user_id, 0, cost - captured - returned FROM tickets WHERE due_at IS NOT NULL)
        GROUP BY user_id HAVING sum(held) <> sum(open)""",
    "a balance is the sum of its entries, counted without a gap": """
        SELECT coalesce(w.user_id, e.user_id),
               'wallet ' || coalesce(w.available || '/' || w.held || '/' || w.debt || ' after ' || w.entries, 'none')
               || ', entries '
               || coalesce(e.available || '/' || e.held || '/' || e.debt || ' after ' || e.entries, 'none')
        FROM wallets w FULL JOIN (
          SELECT user_id, count(*) AS entries, max(number) AS last,
                 sum(amount * ((credit = 'user:' || user_id) - (debit = 'user:' || user_id))) AS available,
                 sum(amount * ((credit = 'held:' || user_id) - (debit = 'held:' || user_id))) AS held,
                 sum(amount * ((debit = 'debt:' || user_id) - (credit = 'debt:' || user_id))) AS debt
          FROM entries GROUP BY user_id) e ON e.user_id = w.user_id
        WHERE w.user_id IS NULL OR w.available <> coalesce(e.available, 0) OR w.held <> coalesce(e.held, 0)
           OR w.debt <> coalesce(e.debt, 0) OR w.entries <> coalesce(e.entries, 0) OR e.last <> e.entries""",
    "an entry follows the one before it": """
        SELECT e.id, 'entry ' || e.number || ' of ' || e.user_id || ' after entry ' || coalesce(p.number, 'none')
        FROM entries e LEFT JOIN entries p ON p.id = e.previous_id
        WHERE (e.number > 1 AND p.id IS NULL) OR p.user_id <> e.user_id OR p.number <> e.number - 1
           OR e.available_after <> coalesce(p.available_after, 0)
              + e.amount * ((e.credit = 'user:' || e.user_id) - (e.debit = 'user:' || e.user_id))
           OR e.held_after <> coalesce(p.held_after, 0)
              + e.amount * ((e.credit = 'held:' || e.user_id) - (e.debit = 'held:' || e.user_id))""",
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
          ELSE 0 END""",
    "a ticket's entries say what the ticket says": """
        SELECT ticket_id, 'ticket ' || sum(cost) || '/' || sum(kept) || ', entries ' || sum(taken) || '/' || sum(earned)
        FROM (
          SELECT id AS ticket_id, user_id, cost, captured AS kept, 0 AS taken, 0 AS earned FROM tickets
          UNION ALL
          SELECT ticket_id, user_id, 0, 0, amount * (debit = 'user:' || user_id),
                 amount * ((credit LIKE 'earned:%') - (debit LIKE 'earned:%')) FROM entries WHERE ticket_id IS NOT NULL)
        GROUP BY ticket_id, user_id HAVING sum(cost) <> sum(taken) OR sum(kept) <> sum(earned)""",
    "captured and returned make the cost once a ticket is settled": """
        SELECT id, state || ' ' || captured || ' + ' || returned || ' of ' || cost FROM tickets
        WHERE captured + returned <> CASE WHEN due_at IS NULL THEN cost ELSE 0 END
           OR (due_at IS NULL) <> (state IN ('captured', 'voided', 'expired'))
           OR (SELECT coalesce(sum(json_extract(value, '$[2]')), 0) FROM json_each(taken)) <> cost""",
    "credits are spent on a ticket": """
        SELECT id, kind || ' of ' || amount || ' by ' || user_id FROM entries
        WHERE kind IN ('vend', 'hold', 'capture', 'return', 'refund') AND ticket_id IS NULL""",
    "a payment reference is claimed by the one grant it has": """
        SELECT e.reference, 'grant ' || e.grant_id
        FROM entries e LEFT JOIN claims c ON c.key = reference_key(e.reference)
        WHERE e.reference IS NOT NULL AND json_extract(c.outcome, '$.grant_id') IS NOT e.grant_id
        UNION ALL
        SELECT p.reference, 'payment ' || p.id
        FROM payments p LEFT JOIN claims c ON c.key = reference_key(p.reference)
        WHERE p.reference IS NOT NULL AND p.minted > 0 AND json_extract(c.outcome, '$.grant_id') IS NULL""",
    "a claimed grant was made": """
        SELECT hex(c.key), c.outcome FROM claims c LEFT JOIN entries e
          ON e.grant_id = json_extract(c.outcome, '$.grant_id') AND e.credit = 'user:' || c.user_id
        WHERE json_extract(c.outcome, '$.type') = 'granted' AND e.id IS NULL""",
    "a claim's ticket exists": """
        SELECT hex(c.key), c.outcome FROM claims c LEFT JOIN tickets t ON t.id = json_extract(c.outcome, '$.ticket_id')
        WHERE json_extract(c.outcome, '$.type') = 'vended' AND (t.id IS NULL OR t.user_id <> c.user_id)""",
    "a signing key's id is its thumbprint": """
        SELECT kid, thumbprint(public) FROM signing_keys WHERE kid <> thumbprint(public)""",
}
ALL = CHECKS | payment_checks.checks(payment_checks.SQLITE)


def check(path: Path, progress: Callable[[str, int, int], None]) -> list[Violation]:
    """Run every check over one snapshot; at most `FINDINGS_MAX` findings of each are reported."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA query_only = 1")
        connection.execute("BEGIN")
        return check_within(connection, progress)
    finally:
        connection.close()


def check_within(connection: sqlite3.Connection, progress: Callable[[str, int, int], None]) -> list[Violation]:
    """The same, over what the transaction sees that the caller is in."""
    connection.create_function("reference_key", 1, reference_key, deterministic=True)
    connection.create_function("thumbprint", 1, thumbprint, deterministic=True)
    connection.create_function("share", 3, lambda a, b, c: a * b // c, deterministic=True)
    violations: list[Violation] = []
    for done, (invariant, query) in enumerate(ALL.items()):
        progress(invariant, done, len(ALL))
        try:
            rows = connection.execute(f"{query} LIMIT {FINDINGS_MAX}").fetchall()
        except sqlite3.OperationalError as error:
            if "malformed JSON" not in str(error):
                raise
            rows = [] if violations else [("the ledger", f"it cannot be read: {error}")]
        violations += [Violation(invariant, str(subject), str(found)) for subject, found in rows]
    progress("done", len(ALL), len(ALL))
    return violations
