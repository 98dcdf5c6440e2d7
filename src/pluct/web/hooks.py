"""Where gateways report: the request as it came goes to the gateway's adapter, which knows whether to believe it."""

from pluct.cashier import Cashier
from pluct.engine import Engine
from pluct.web.address import client_address
from pluct.web.endpoint import Answer, Call, Handler, Route
from pluct.web.problems import problem


def routes(cashier: Cashier, proxy_hops: int) -> list[Route]:
    """A route for each hook of each gateway that is set up."""
    return [
        Route("POST", f"/hooks/{name}{hook}", _receiver(cashier, name, hook, proxy_hops), None, problem, None, bytes)
        for name, gateway in cashier.gateways.items()
        for hook in gateway.hooks
    ]


def _receiver(cashier: Cashier, name: str, hook: str, proxy_hops: int) -> Handler:
    async def receive(engine: Engine, call: Call) -> Answer:
        token, address = call.path.get("token", ""), client_address(call.scope, proxy_hops)
        return Answer(await cashier.receive(name, hook, token, call.headers, call.body, address))

    receive.__doc__ = f"What {name} has to say of payments: answered once it is safely stored."
    return receive
