"""What `pluct check` verifies of payments, over either database: each query names what is wrong, subject and found.

The databases differ in how they read JSON and in how they divide large numbers, and in nothing else here.
"""

from collections.abc import Callable

import msgspec


class Dialect(msgspec.Struct, frozen=True):
    """How one database says these things."""

    elements: Callable[[str, str], str]  # of a column's JSON array, under a name
    text: Callable[[str, int], str]  # one part of such an element
    number: Callable[[str, int], str]
    reasons: str  # each of what freezes wallet `w`
    reason: str  # the text of it
    kept: str  # `kept`: each remainder of wallet `w`
    share: Callable[[str, str, str], str]  # floor(a * b / c)


SQLITE = Dialect(
    lambda column, name: f"json_each({column}) {name}",
    lambda name, at: f"json_extract({name}.value, '$[{at}]')",
    lambda name, at: f"json_extract({name}.value, '$[{at}]')",
    "json_each(w.standing, '$[0]') why",
    "why.value",
    "json_each(w.standing, '$[1]') kept",
    lambda a, b, c: f"share({a}, {b}, {c})",
)
POSTGRESQL = Dialect(
    lambda column, name: f"json_array_elements({column}::json) {name}",
    lambda name, at: f"({name}->>{at})",
    lambda name, at: f"({name}->>{at})::numeric",
    "LATERAL json_array_elements_text(w.standing::json->0) why",
    "why",
    "LATERAL json_array_elements(w.standing::json->1) kept",
    lambda a, b, c: f"div(({a})::numeric * ({b}), ({c})::numeric)",
)

_SETTLED = "('paid', 'part_refunded', 'refunded', 'disputed')"


def checks(of: Dialect) -> dict[str, str]:
    """The queries, by the invariants they verify."""
    return _of_payments(of) | _of_wallets(of)


def _of_payments(of: Dialect) -> dict[str, str]:
    line = {name: of.number("line", at) for at, name in enumerate(("", "price", "credits", "count")) if name}
    lines = of.elements("p.priced", "line")
    spent = f"(SELECT coalesce(sum({line['price']} * {line['count']}), 0) FROM {lines})"
    credits = f"(SELECT coalesce(sum({line['credits']} * {line['count']}), 0) FROM {lines})"
    rated = of.share("p.amount", line["credits"], line["price"])
    withdrawn = f"""(SELECT coalesce(sum(coalesce({of.number("c", 3)}, p.amount)), 0) FROM
        {of.elements("p.disputes", "c")} WHERE {of.text("c", 2)} = 'withdrawn')"""
    return {
        "money in is credits by the price list": f"""
            SELECT p.id, p.amount || ' ' || p.currency || ' for ' || p.minted || ' credits, left '
                   || p.remainder_before || ' and ' || p.remainder_after
            FROM payments p WHERE (p.state IN {_SETTLED} OR p.minted > 0) AND NOT CASE
              WHEN EXISTS (SELECT 1 FROM {lines} WHERE {line["count"]} = 0)
              THEN p.remainder_before = p.remainder_after AND p.minted = (SELECT max({rated}) FROM {lines})
              WHEN p.priced = '[]' AND p.minted > 0 THEN p.remainder_before = p.remainder_after
              ELSE {spent} + p.remainder_after = p.amount + p.remainder_before AND {credits} = p.minted END""",
        "a payment's credits are those of its grant": """
            SELECT p.id, p.minted || ' credits, grant ' || p.grant_id || coalesce(' of ' || e.amount, ' unknown')
            FROM payments p LEFT JOIN entries e ON e.grant_id = p.grant_id AND e.kind = 'grant'
            WHERE p.grant_id IS NOT NULL AND (e.id IS NULL OR e.user_id <> p.user_id OR e.amount <> p.minted)""",
        "what is taken back of a payment is what went back with its money": f"""
            SELECT p.id, 'clawed ' || p.clawed || ' of ' || p.minted || ', refunded ' || p.refunded || ', withdrawn '
                   || {withdrawn} || ' of ' || p.amount
            FROM payments p WHERE p.state IN {_SETTLED} AND p.clawed <> CASE
              WHEN p.refunded + {withdrawn} >= p.amount THEN p.minted
              ELSE {of.share("p.minted", f"p.refunded + {withdrawn}", "p.amount")} END""",
        "what is taken back of a payment is in its user's entries": """
            SELECT coalesce(grant_id, 'no grant'), 'payment ' || sum(said) || ', entries ' || sum(moved) FROM (
              SELECT grant_id, clawed - lost AS said, 0 AS moved FROM payments WHERE minted > 0
              UNION ALL
              SELECT grant_id, 0, CASE kind WHEN 'clawback' THEN amount ELSE -amount END FROM entries
              WHERE kind IN ('clawback', 'restore')) found
            GROUP BY grant_id HAVING sum(said) <> sum(moved)""",
        "a payment's state is what is known of it": f"""
            SELECT id, state || ', refunded ' || refunded || ' of ' || amount || ', disputes ' || disputes FROM payments
            WHERE state <> CASE
              WHEN state NOT IN {_SETTLED} THEN CASE WHEN minted = 0 OR state = 'failed' THEN state ELSE 'paid' END
              WHEN user_id IS NULL OR amount <= 0 THEN 'unmatched'
              WHEN disputes <> '[]' THEN 'disputed'
              WHEN refunded = 0 THEN 'paid'
              WHEN refunded >= amount THEN 'refunded' ELSE 'part_refunded' END""",
    }


def _of_wallets(of: Dialect) -> dict[str, str]:
    return {
        "a wallet is frozen by its open disputes or its debt, and by nothing else": f"""
            SELECT user_id, reason || CASE max(open) WHEN 1 THEN ' is open' ELSE ' is not open' END FROM (
              SELECT p.user_id, {of.text("c", 0)} AS reason, 1 AS open, 0 AS frozen
              FROM payments p CROSS JOIN {of.elements("p.disputes", "c")}
              WHERE p.state IN {_SETTLED} AND {of.text("c", 1)} = 'open'
              UNION ALL
              SELECT w.user_id, {of.reason}, 0, 1 FROM wallets w CROSS JOIN {of.reasons}
              WHERE w.standing IS NOT NULL AND ({of.reason} <> 'debt' OR w.debt = 0)) found
            GROUP BY user_id, reason HAVING max(open) <> max(frozen)""",
        "money left over is what payments left": f"""
            SELECT user_id, 'wallet ' || sum(kept) || ', payments ' || sum(left_over) || ' ' || currency FROM (
              SELECT w.user_id, {of.text("kept", 0)} AS currency, {of.number("kept", 1)} AS kept, 0 AS left_over
              FROM wallets w CROSS JOIN {of.kept} WHERE w.standing IS NOT NULL
              UNION ALL
              SELECT user_id, currency, 0, remainder_after - remainder_before FROM payments
              WHERE remainder_after <> remainder_before) found
            GROUP BY user_id, currency HAVING sum(kept) <> sum(left_over)""",
        "a paid checkout has its payment": f"""
            SELECT c.id, 'paid by nothing' FROM checkouts c WHERE c.state = 'paid' AND NOT EXISTS (
              SELECT 1 FROM payments p
              WHERE p.checkout_id = c.id AND p.user_id = c.user_id AND p.state IN {_SETTLED})""",
        "what names a payment or a checkout names one that is there": """
            SELECT 'event ' || e.id, 'payment ' || coalesce(e.payment_id, 'none') || ', checkout '
                   || coalesce(e.checkout_id, 'none')
            FROM payment_events e LEFT JOIN payments p ON p.id = e.payment_id
              LEFT JOIN checkouts c ON c.id = e.checkout_id
            WHERE (e.payment_id IS NOT NULL AND p.id IS NULL) OR (e.checkout_id IS NOT NULL AND c.id IS NULL)
            UNION ALL
            SELECT 'payment ' || p.id, 'checkout ' || p.checkout_id
            FROM payments p LEFT JOIN checkouts c ON c.id = p.checkout_id
            WHERE p.checkout_id IS NOT NULL AND c.id IS NULL""",
    }
