"""What can be read of payments and checkouts: the same queries over either database, each a few index look-ups."""

from collections.abc import Sequence
from typing import Any

from pluct.model import Checkout, Payment, PaymentEvent
from pluct.stores import rows

#: Events shown of one payment: more than any gateway sends of one.
EVENTS_MAX = 200


#: References looked up at once.
REFERENCES = 100
_BY_REFERENCE = (
    f"SELECT {rows.PAYMENT} FROM payments WHERE namespace = $1"
    f" AND reference IN ({', '.join(f'${at}' for at in range(2, REFERENCES + 2))})"
)


class PaymentReads:
    """See `Store`. Values stand in queries as `$1`, `$2`, …"""

    async def _rows(self, sql: str, *values: object) -> list[Any]:
        raise NotImplementedError

    async def checkout(self, checkout_id: str) -> Checkout | None:
        """See `Store.checkout`."""
        return await self._checkout("id = $1", checkout_id)

    async def checkout_by_code(self, code: str) -> Checkout | None:
        """See `Store.checkout_by_code`."""
        return await self._checkout("payment_code = $1", code)

    async def checkout_by_token(self, token_hash: bytes) -> Checkout | None:
        """See `Store.checkout_by_token`."""
        return await self._checkout("token_hash = $1", token_hash)

    async def checkout_by_reference(self, gateway: str, gateway_reference: str) -> Checkout | None:
        """See `Store.checkout_by_reference`."""
        return await self._checkout("gateway = $1 AND gateway_reference = $2 LIMIT 1", gateway, gateway_reference)

    async def checkouts_due(self, now: int, limit: int) -> list[Checkout]:
        """See `Store.checkouts_due`."""
        return await self._checkouts("due_at <= $1 ORDER BY due_at LIMIT $2", now, limit)

    async def checkouts_of_phone(self, phone_hash: bytes, limit: int) -> list[Checkout]:
        """See `Store.checkouts_of_phone`."""
        return await self._checkouts("phone_hash = $1 ORDER BY id DESC LIMIT $2", phone_hash, limit)

    async def checkouts_of(self, user_id: str, limit: int) -> list[Checkout]:
        """See `Store.checkouts_of`."""
        return await self._checkouts("user_id = $1 ORDER BY id DESC LIMIT $2", user_id, limit)

    async def payments_of(self, user_id: str, limit: int) -> list[Payment]:
        """See `Store.payments_of`."""
        return await self._payments("user_id = $1 ORDER BY id DESC LIMIT $2", user_id, limit)

    async def payments_of_phone(self, phone_hash: bytes, limit: int) -> list[Payment]:
        """See `Store.payments_of_phone`."""
        return await self._payments("phone_hash = $1 ORDER BY id DESC LIMIT $2", phone_hash, limit)

    async def checkouts_of_mask(self, phone_mask: str, limit: int) -> list[Checkout]:
        """See `Store.checkouts_of_mask`."""
        return await self._checkouts("phone_mask = $1 ORDER BY id DESC LIMIT $2", phone_mask, limit)

    async def payments_of_mask(self, phone_mask: str, limit: int) -> list[Payment]:
        """See `Store.payments_of_mask`."""
        return await self._payments("phone_mask = $1 ORDER BY id DESC LIMIT $2", phone_mask, limit)

    async def payment(self, payment_id: str) -> Payment | None:
        """See `Store.payment`."""
        return await self._payment("id = $1", payment_id)

    async def find_payment(self, namespace: str, reference: str) -> Payment | None:
        """See `Store.find_payment`."""
        by_reference = await self._payment("namespace = $1 AND reference = $2", namespace, reference)
        return by_reference or await self._payment("namespace = $1 AND link = $2", namespace, reference)

    async def find_payments(self, namespace: str, references: Sequence[str]) -> list[Payment]:
        """See `Store.find_payments`. One statement for any number, so that it is prepared once."""
        found: list[Payment] = []
        for start in range(0, len(references), REFERENCES):
            named = list(references[start : start + REFERENCES])
            named += named[-1:] * (REFERENCES - len(named))
            found += map(rows.payment, await self._rows(_BY_REFERENCE, namespace, *named))
        return found

    async def payments_at(self, namespace: str, since: int, until: int, after: str, limit: int) -> list[Payment]:
        """See `Store.payments_at`: a walk along the key."""
        found = await self._rows(
            f"SELECT {rows.PAYMENT} FROM payments WHERE id > $1 AND namespace = $2 AND at >= $3 AND at <= $4"
            " ORDER BY id LIMIT $5",
            after, namespace, since, until, limit,
        )  # fmt: skip
        return [rows.payment(row) for row in found]

    async def payments(
        self, state: str | None, gateway: str | None, limit: int, cursor: str | None
    ) -> list[Payment]:  # fmt: skip
        """See `Store.payments`."""
        given = [("state = ", state), ("gateway = ", gateway), ("id <= ", cursor)]
        wanted = [(condition, value) for condition, value in given if value is not None]
        where = " AND ".join(f"{condition}${at}" for at, (condition, _) in enumerate(wanted, 1)) or "true"
        found = await self._rows(
            f"SELECT {rows.PAYMENT} FROM payments WHERE {where} ORDER BY id DESC LIMIT ${len(wanted) + 1}",
            *(value for _, value in wanted), limit,
        )  # fmt: skip
        return [rows.payment(row) for row in found]

    async def payment_events(self, payment_ids: Sequence[str]) -> list[PaymentEvent]:
        """See `Store.payment_events`."""
        events: dict[str, PaymentEvent] = {}
        for payment_id in payment_ids:
            for row in await self._rows(
                f"SELECT {rows.EVENT} FROM payment_events WHERE payment_id = $1"
                f" UNION SELECT {rows.EVENT} FROM payment_events WHERE payment_id IS NULL AND checkout_id ="
                " (SELECT checkout_id FROM payments WHERE id = $1) ORDER BY id LIMIT $2",
                payment_id, EVENTS_MAX,
            ):  # fmt: skip
                events[row[0]] = PaymentEvent(*row)
        return sorted(events.values(), key=lambda event: event.id)

    async def claims(self, limit: int, cursor: str | None) -> list[PaymentEvent]:
        """See `Store.claims`."""
        where, given = ("", []) if cursor is None else (" AND id <= $2", [cursor])
        found = await self._rows(
            f"SELECT {rows.EVENT} FROM payment_events WHERE gateway = 'claim'{where} ORDER BY id DESC LIMIT $1",
            limit, *given,
        )  # fmt: skip
        return [PaymentEvent(*row) for row in found]

    async def _checkout(self, where: str, *values: object) -> Checkout | None:
        found = await self._checkouts(where, *values)
        return found[0] if found else None

    async def _checkouts(self, where: str, *values: object) -> list[Checkout]:
        found = await self._rows(f"SELECT {rows.CHECKOUT} FROM checkouts WHERE {where}", *values)
        return [Checkout(*row) for row in found]

    async def _payment(self, where: str, *values: object) -> Payment | None:
        found = await self._payments(where, *values)
        return found[0] if found else None

    async def _payments(self, where: str, *values: object) -> list[Payment]:
        found = await self._rows(f"SELECT {rows.PAYMENT} FROM payments WHERE {where}", *values)
        return [rows.payment(row) for row in found]
