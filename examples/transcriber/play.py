"""Amina buys minutes, spends some of them well and one recording badly, and looks at what became of it all.

`python -m examples.transcriber.play ENGINE BACKEND`: the app's side of the story, with nothing but HTTP.
"""

import sys
import time
from typing import Any

import httpx

USER, PHONE = "amina", "0712345678"
SECONDS_MAX = 30.0


def play(engine: str, backend: str, say: Any = print) -> None:
    """The whole story, told as it happens."""
    with httpx.Client(base_url=engine) as shop, httpx.Client(base_url=backend) as transcriber:
        say("Amina has no credits, so no ticket:")
        refused = shop.post("/v1/vend-token", json={"userId": USER, "action": "transcribe"})
        say(f"  {refused.status_code} {refused.json()['message']}")

        say("She buys 10 minutes with M-Pesa:")
        asked = {"userId": USER, "pack": "ten", "gateway": "daraja", "phone": PHONE, "clientRequestId": "first pack"}
        checkout = _good(shop.post("/v1/checkouts", json=asked))
        say(f"  {checkout['message']}")
        _until(lambda: _good(shop.get(f"/v1/checkouts/{checkout['checkoutId']}"))["state"] == "paid")
        say(f"  PIN typed, paid: {_available(shop)} credits.")

        say("An interview that may be 5 minutes long: she has 5 held, and hands it in with the ticket:")
        ticket = _vend(shop, 5, "the interview")
        say(f"  {_available(shop)} credits left to spend, {_good(_balance(shop))['held']} held.")
        job = _submit(transcriber, ticket, "interview.wav", 3)
        say(f"  {job['state']}: “{job['text']}” {job['minutes']} minutes used, {job['returned']} returned.")
        say(f"  {_available(shop)} credits.")

        say("The same ticket again, as somebody who copied it would try:")
        again = transcriber.post("/transcriptions", json={"name": "x.wav", "minutes": 1}, headers=_bearer(ticket))
        say(f"  {again.status_code} {again.json()['detail']}")

        say("A recording of which nothing can be understood:")
        job = _submit(transcriber, _vend(shop, 4, "the street"), "noise.wav", 4)
        say(f"  {job['state']}: {job['why']} {job['returned']} returned.")
        say(f"  {_available(shop)} credits.")


def _vend(shop: httpx.Client, minutes: int, request_id: str) -> str:
    body = {"userId": USER, "action": "transcribe", "cost": minutes, "clientRequestId": request_id}
    token: str = _good(shop.post("/v1/vend-token", json=body))["token"]
    return token


def _submit(transcriber: httpx.Client, ticket: str, name: str, minutes: int) -> dict[str, Any]:
    """Hand a recording in, and wait until it is done or has failed."""
    sent = transcriber.post("/transcriptions", json={"name": name, "minutes": minutes}, headers=_bearer(ticket))
    path = f"/transcriptions/{_good(sent)['id']}"
    _until(lambda: "returned" in _good(transcriber.get(path)))
    return _good(transcriber.get(path))


def _balance(shop: httpx.Client) -> httpx.Response:
    return shop.get("/v1/credits/balance", params={"userId": USER})


def _available(shop: httpx.Client) -> int:
    available: int = _good(_balance(shop))["available"]
    return available


def _bearer(ticket: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {ticket}"}


def _good(answer: httpx.Response) -> dict[str, Any]:
    """What was answered, if it is no refusal."""
    if answer.is_error:
        sys.exit(f"{answer.request.method} {answer.request.url} was refused: {answer.status_code} {answer.text}")
    found: dict[str, Any] = answer.json()
    return found


def _until(look: Any) -> None:
    """Ask again until it is so."""
    end = time.monotonic() + SECONDS_MAX
    while not look():
        if time.monotonic() > end:
            sys.exit(f"It took longer than {SECONDS_MAX:.0f} s.")
        time.sleep(0.2)


if __name__ == "__main__":
    play(*sys.argv[1:3])
