"""What is sold: actions, their cost, and how their credits are settled."""

import msgspec

from pluct.errors import InvalidRequest
from pluct.model import AMOUNT_MAX, Clawback, OddAmounts, Settlement

ISSUER = "pluct-business-engine"
AUDIENCE_LENGTH_MAX = 200
TTL_SECONDS_MAX = 86_400
REPORT_SECONDS_MAX = 30 * 86_400


class Action(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Something sold. `cost_max` lets a `report` vend ask for a larger hold than `cost`."""

    cost: int = 1
    audience: str = "premium"
    ttl_seconds: int = 60
    settle: Settlement = "vend"
    report_seconds: int = 1800
    cost_max: int | None = None

    def problems(self) -> list[str]:
        """What is wrong with this action, a sentence each."""
        found = []
        if not 1 <= self.cost <= AMOUNT_MAX:
            found.append(f"cost must be 1 to {AMOUNT_MAX}")
        if not 1 <= len(self.audience) <= AUDIENCE_LENGTH_MAX:
            found.append(f"audience must not be empty, nor longer than {AUDIENCE_LENGTH_MAX} characters")
        if not 1 <= self.ttl_seconds <= TTL_SECONDS_MAX:
            found.append(f"ttl_seconds must be 1 to {TTL_SECONDS_MAX}")
        if not 1 <= self.report_seconds <= REPORT_SECONDS_MAX:
            found.append(f"report_seconds must be 1 to {REPORT_SECONDS_MAX}")
        if self.cost_max is not None and self.settle != "report":
            found.append('cost_max is only for actions with settle = "report"')
        if self.cost_max is not None and not self.cost <= self.cost_max <= AMOUNT_MAX:
            found.append(f"cost_max must be from cost to {AMOUNT_MAX}")
        return found


class PaymentPolicy(msgspec.Struct, frozen=True):
    """`[payments]`: what becomes of money that fits no pack, and of credits whose money goes back."""

    odd_amounts: OddAmounts = "packs"
    clawback: Clawback = "debt"


class Catalog(msgspec.Struct, frozen=True):
    """All actions by name; `default` is always there."""

    actions: dict[str, Action]

    def action(self, name: str) -> Action:
        """The named action; an unknown one is the caller's mistake."""
        try:
            return self.actions[name]
        except KeyError:
            known = ", ".join(sorted(self.actions))
            raise InvalidRequest(f"There is no such action; this engine sells: {known}.") from None

    def hold(self, name: str, cost: int | None) -> tuple[Action, int]:
        """The action and what a vend of it costs; a `report` action may be asked to hold more, up to its limit."""
        action = self.action(name)
        if cost is None:
            return action, action.cost
        if action.settle != "report":
            raise InvalidRequest(f"The cost of {name} is fixed at {action.cost}; leave cost out.")
        if not action.cost <= cost <= (action.cost_max or action.cost):
            raise InvalidRequest(f"cost for {name} must be from {action.cost} to {action.cost_max or action.cost}.")
        return action, cost

    @property
    def ticket_seconds_max(self) -> int:
        """How long the longest-lived ticket lives."""
        return max(action.ttl_seconds for action in self.actions.values())

    @property
    def audiences(self) -> frozenset[str]:
        """Every audience a ticket of ours may name."""
        return frozenset(action.audience for action in self.actions.values())
