"""The seed's two routes, byte for byte: what old apps and payment webhooks have always been able to rely on."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from conftest import WEBHOOK_SECRET, Pluct, claims, new_id, served

SECRET = {"x-webhook-secret": WEBHOOK_SECRET}
FIELDS = b'{"error":"User ID and positive amount are required"}'
UNAUTHORIZED = b'{"error":"Unauthorized"}'
BODY_BYTES_MAX = 64 * 1024

TOML = """
[actions.transcribe]
cost = 2
audience = "tttranscribe"
settle = "report"
"""


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pluct]:
    with served(tmp_path_factory.mktemp("seed"), TOML) as pluct:
        yield pluct


def vend(engine: Pluct, body: Any, **headers: str) -> httpx.Response:
    """Vend with this body, sent as it is if it is bytes."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return engine.client.post("/vend-token", content=content, headers=headers)


def add(engine: Pluct, body: Any, **headers: str) -> httpx.Response:
    """Top up with the webhook's secret and this body, sent as it is if it is bytes."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return engine.client.post("/add-credits", content=content, headers=SECRET | headers)


def seen(answer: httpx.Response) -> tuple[int, bytes]:
    return answer.status_code, answer.content


def only_a_sentence(answer: httpx.Response, status: int) -> str:
    """An error of the seed's routes: JSON with `error` and nothing else."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert list(body) == ["error"] and len(body["error"]) > 3, body
    return str(body["error"])


# Vending


def test_a_vend_answers_a_token_and_nothing_else(engine: Pluct) -> None:
    """200, `{"token":"…"}` without a space, plain JSON, and the token is the user's for a minute."""
    user_id = engine.funded(1)
    answer = vend(engine, {"userId": user_id})
    token = answer.json()["token"]
    assert seen(answer) == (200, b'{"token":"%s"}' % token.encode())
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["content-length"] == str(len(answer.content))
    assert "idempotency-replayed" not in answer.headers
    said = claims(token)
    assert (said["sub"], said["aud"], said["cost"]) == (user_id, "premium", 1)
    assert said["exp"] - said["iat"] == 60


def test_each_vend_spends_one_credit_until_none_is_left(engine: Pluct) -> None:
    """Given balance 2: vend, vend, vend → ok, ok, refused; and the two tokens differ."""
    user_id = engine.funded(2)
    answers = [vend(engine, {"userId": user_id}) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 403]
    assert answers[2].content == b'{"error":"Insufficient credits"}'
    assert answers[0].json()["token"] != answers[1].json()["token"]


def test_an_unknown_user_has_no_credits_and_gets_no_wallet(engine: Pluct) -> None:
    """403 as for an empty wallet; the refused vend leaves no wallet behind."""
    user_id = new_id()
    answer = vend(engine, {"userId": user_id})
    assert seen(answer) == (403, b'{"error":"Insufficient credits"}')
    assert answer.headers["content-type"] == "application/json"
    assert engine.run("credits", "show", user_id, exit_code=1).stdout == ""


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b'{"userId":""}', b'{"userId":null}', b'{"userId":0}', b'{"userId":false}', b'{"userId":-0.0}',
     b'{"user":"u"}', b'{"userid":"u"}'],
)  # fmt: skip
def test_a_vend_needs_a_user(engine: Pluct, body: bytes) -> None:
    """Missing and falsy ids get the seed's own sentence."""
    assert seen(vend(engine, body)) == (400, b'{"error":"User ID is required"}')


@pytest.mark.parametrize(
    "body",
    [
        b'{"userId":7}', b'{"userId":true}', b'{"userId":["u"]}', b'{"userId":{}}', b'{"userId":[]}', b"null", b"[]",
        b'"u"', b"1", b"{", b'{"userId":"u"', b'{"userId":"u"}}', b"userId=u", b"\xef\xbb\xbf{}", b'{"userId":"\xff"}',
        b'{"userId":"\\ud800"}', b'{"userId":"a\\u0000"}', b'{"userId":"%s"}' % (b"u" * 201),
    ],
)  # fmt: skip
def test_a_vend_refuses_what_is_no_user_id(engine: Pluct, body: bytes) -> None:
    """What the first engine crashed on or believed is a 400 with a sentence."""
    only_a_sentence(vend(engine, body), 400)


def test_a_vend_takes_the_id_from_the_header_too(engine: Pluct) -> None:
    """`X-User-Id` names the user where the body does not; the body goes first, an empty one in it is refused."""
    user_id, other = engine.funded(3), engine.funded(1)
    assert claims(vend(engine, {}, **{"X-User-Id": user_id}).json()["token"])["sub"] == user_id
    assert claims(vend(engine, {"userId": other}, **{"X-User-Id": user_id}).json()["token"])["sub"] == other
    assert seen(vend(engine, {"userId": ""}, **{"X-User-Id": user_id})) == (400, b'{"error":"User ID is required"}')
    only_a_sentence(vend(engine, {}, **{"X-User-Id": ""}), 400)
    assert engine.available(user_id) == 2


def test_a_body_of_64_kib_is_read_and_one_byte_more_is_not(engine: Pluct) -> None:
    """413 above the limit, the ordinary answer at it."""
    user_id = engine.funded(2)
    body = json.dumps({"userId": user_id, "padding": ""}).encode()
    full = body.replace(b'""', b'"%s"' % (b"x" * (BODY_BYTES_MAX - len(body))))
    assert len(full) == BODY_BYTES_MAX
    assert vend(engine, full).status_code == 200
    only_a_sentence(vend(engine, full + b" "), 413)
    assert engine.available(user_id) == 1


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/x; charset=x"])
def test_the_content_type_does_not_matter(engine: Pluct, content_type: str) -> None:
    """The first engine never looked at it; neither does this one."""
    user_id = new_id()
    body = {"userId": user_id, "amount": 1}
    assert seen(add(engine, body, **{"Content-Type": content_type})) == (200, b'{"success":true,"newBalance":1}')
    assert vend(engine, {"userId": user_id}, **{"Content-Type": content_type}).status_code == 200


@pytest.mark.parametrize("path", ["/vend-token", "/add-credits"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_both_routes_take_post_only(engine: Pluct, method: str, path: str) -> None:
    """405 with `Allow: POST`, in the seed's shape."""
    answer = engine.client.request(method, path, headers=SECRET)
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    if method != "HEAD":
        only_a_sentence(answer, 405)


# Topping up


def test_a_top_up_answers_success_and_the_new_balance(engine: Pluct) -> None:
    """200, `{"success":true,"newBalance":10}`, and the next one adds to it."""
    user_id = new_id()
    answer = add(engine, {"userId": user_id, "amount": 10})
    assert seen(answer) == (200, b'{"success":true,"newBalance":10}')
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["content-length"] == "32"
    assert "idempotency-replayed" not in answer.headers
    assert seen(add(engine, {"userId": user_id, "amount": 5})) == (200, b'{"success":true,"newBalance":15}')


def test_the_new_balance_is_what_can_be_spent_now(engine: Pluct) -> None:
    """Credits that a ticket holds do not count."""
    user_id = engine.funded(5)
    held = engine.client.post("/v1/vend-token", json={"userId": user_id, "action": "transcribe"})
    assert held.json()["balanceAfter"] == 3
    assert add(engine, {"userId": user_id, "amount": 1}).content == b'{"success":true,"newBalance":4}'


@pytest.mark.parametrize(
    "headers",
    [
        {}, {"x-webhook-secret": ""}, {"x-webhook-secret": "wrong"}, {"x-webhook-secret": WEBHOOK_SECRET[:-1]},
        {"x-webhook-secret": WEBHOOK_SECRET + "0"}, {"x-webhook-secret": WEBHOOK_SECRET.upper()},
        {"x-webhook-secret": "é"}, {"Authorization": "Bearer nonsense"}, {"X-API-Key": WEBHOOK_SECRET},
        {"Authorization": f"Bearer {WEBHOOK_SECRET}"}, {"Authorization": f"Basic {WEBHOOK_SECRET}"},
    ],
)  # fmt: skip
def test_a_top_up_without_the_secret_is_unauthorized(engine: Pluct, headers: dict[str, str]) -> None:
    """The same 401 for none, a wrong and an almost right one; nothing is granted."""
    user_id = new_id()
    raw = {name: value.encode() for name, value in headers.items()}
    answer = engine.client.post("/add-credits", json={"userId": user_id, "amount": 1}, headers=raw)
    assert seen(answer) == (401, UNAUTHORIZED)
    assert answer.headers["content-type"] == "application/json"
    assert engine.available(user_id) == 0


@pytest.mark.parametrize("body", [b"", b"{", b"null", b"\xff", b'{"userId":""}', b"x" * (BODY_BYTES_MAX + 1)])
def test_the_secret_is_checked_before_the_body(engine: Pluct, body: bytes) -> None:
    """Whatever the body is, without the secret the answer is 401."""
    assert seen(engine.client.post("/add-credits", content=body)) == (401, UNAUTHORIZED)


def test_the_size_is_checked_before_the_json_and_the_json_before_the_fields(engine: Pluct) -> None:
    """413 for a large broken body, then a complaint about JSON, and only then one about fields."""
    only_a_sentence(add(engine, b'{"amount":0,' + b"x" * BODY_BYTES_MAX), 413)
    assert "JSON" in only_a_sentence(add(engine, b'{"userId":"","amount":0'), 400)
    assert seen(add(engine, b'{"userId":"","amount":0}')) == (400, FIELDS)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{}", b'{"amount":1}', b'{"userId":"u"}', b'{"userId":"","amount":1}', b'{"userId":null,"amount":1}',
        b'{"userId":"u","amount":null}', b'{"userId":"u","amount":0}', b'{"userId":"u","amount":-0}',
        b'{"userId":"u","amount":false}', b'{"userId":"u","amount":""}', b'{"userId":"u","amount":0.0}',
        b'{"userId":0,"amount":1}', b'{"userId":false,"amount":1}', b'{"userId":"","amount":"10"}',
        b'{"userId":"u","amount":-1}', b'{"userId":"u","amount":-99999999999999999999999}',
    ],
)  # fmt: skip
def test_a_top_up_needs_a_user_and_a_positive_amount(engine: Pluct, body: bytes) -> None:
    """Missing, falsy whatever its type, and negative get the seed's own sentence."""
    assert seen(add(engine, body)) == (400, FIELDS)


@pytest.mark.parametrize(
    "amount",
    ['"10"', "0.5", "1.5", "1.0", "10.0", "true", "[3]", "{}", "1e21", "1e3", "1E0", "NaN", "Infinity", "-Infinity",
     "1000000001", "9007199254740993", "18446744073709551616", "9" * 30, "9" * 5000, "01", "+1", "0x10", "1_000"],
)  # fmt: skip
def test_an_amount_is_a_whole_number_in_bounds(engine: Pluct, amount: str) -> None:
    """Everything else is a 400 with a sentence, with an idempotency key or without, and moves nothing."""
    user_id = new_id()
    body = f'{{"userId":"{user_id}","amount":{amount}}}'.encode()
    only_a_sentence(add(engine, body), 400)
    only_a_sentence(add(engine, body, **{"Idempotency-Key": "k"}), 400)
    assert engine.available(user_id) == 0


def test_a_field_of_a_wrong_type_is_named(engine: Pluct) -> None:
    """Whoever did send a user and an amount is told which of the two is not understood."""
    assert "amount" in only_a_sentence(add(engine, {"userId": "u", "amount": "10"}), 400)
    assert "userId" in only_a_sentence(add(engine, {"userId": 7, "amount": 10}), 400)
    assert "userId" in only_a_sentence(vend(engine, {"userId": 7}), 400)


@pytest.mark.parametrize("amount", [1, 1_000_000_000])
def test_the_bounds_of_an_amount_are_inside(engine: Pluct, amount: int) -> None:
    """1 and 1 000 000 000 are granted."""
    answer = add(engine, {"userId": new_id(), "amount": amount})
    assert seen(answer) == (200, b'{"success":true,"newBalance":%d}' % amount)


@pytest.mark.parametrize("user_id", [7, True, ["u"], {"a": 1}, "x" * 201, "a\nb", "a\x00", "\x7f", "\x85", "\ud800"])
def test_a_top_up_refuses_what_is_no_user_id(engine: Pluct, user_id: Any) -> None:
    """A wrong type, a long one, control characters, half a surrogate pair."""
    only_a_sentence(add(engine, {"userId": user_id, "amount": 1}), 400)


def test_unknown_fields_are_ignored(engine: Pluct) -> None:
    """Whatever a webhook sends beside the known fields changes nothing."""
    user_id = new_id()
    extra = {"currency": "KES", "nested": {"a": [1.5, None, 1e3]}, "AMOUNT": 99, "expiresAt": 5}
    assert add(engine, {"userId": user_id, "amount": 2} | extra).content == b'{"success":true,"newBalance":2}'
    assert vend(engine, {"userId": user_id, "action": 5, "cost": "x"} | extra).status_code == 200


def test_a_mint_key_may_top_up_and_other_keys_may_not(engine: Pluct) -> None:
    """Each answer in the seed's shape; a wrong secret beside a good key is still wrong."""
    user_id = new_id()
    body = {"userId": user_id, "amount": 3}
    mint = engine.key("mint")
    assert engine.client.post("/add-credits", json=body, headers=mint).content == b'{"success":true,"newBalance":3}'
    for role in ("service", "operator"):
        only_a_sentence(engine.client.post("/add-credits", json=body, headers=engine.key(role)), 403)
    both = mint | {"x-webhook-secret": "wrong"}
    assert seen(engine.client.post("/add-credits", json=body, headers=both)) == (401, UNAUTHORIZED)
    assert engine.available(user_id) == 3


def test_several_webhook_secrets_are_good_while_they_are_rotated(make_pluct: Callable[..., Pluct]) -> None:
    """Each of the comma-separated secrets works, whole; they are one key in the eyes of idempotency."""
    pluct = make_pluct(WEBHOOK_SECRET="first-secret, second-secret")
    pluct.start()
    body = {"userId": "u", "amount": 1, "clientRequestId": "one"}

    def send(secret: str) -> httpx.Response:
        return pluct.client.post("/add-credits", json=body, headers={"x-webhook-secret": secret})

    assert seen(send("first-secret")) == (200, b'{"success":true,"newBalance":1}')
    assert seen(send("second-secret")) == (200, b'{"success":true,"newBalance":1}')
    for wrong in (WEBHOOK_SECRET, "first-secret, second-secret", "first-secret,second-secret", ""):
        assert seen(send(wrong)) == (401, UNAUTHORIZED)
    assert pluct.available("u") == 1


# Once only


@pytest.mark.parametrize("way", ["header", "body"])
def test_a_repeated_vend_answers_the_same_bytes(engine: Pluct, way: str) -> None:
    """The same key and request spend once; the replay says so in its header."""
    user_id = engine.funded(2)
    body = {"userId": user_id} | ({"clientRequestId": "once"} if way == "body" else {})
    headers = {"Idempotency-Key": "once"} if way == "header" else {}
    first, again = vend(engine, body, **headers), vend(engine, body, **headers)
    assert first.status_code == 200
    assert seen(again) == seen(first)
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert engine.available(user_id) == 1


def test_the_header_wins_over_the_body(engine: Pluct) -> None:
    """`Idempotency-Key` is the key where both are sent, for vends and top-ups."""
    user_id = engine.funded(5)
    first = vend(engine, {"userId": user_id, "clientRequestId": "a"}, **{"Idempotency-Key": "b"})
    assert seen(vend(engine, {"userId": user_id, "clientRequestId": "c"}, **{"Idempotency-Key": "b"})) == seen(first)
    assert vend(engine, {"userId": user_id, "clientRequestId": "a"}).content != first.content
    assert engine.available(user_id) == 3
    key = new_id()
    body = {"userId": user_id, "amount": 1}
    assert add(engine, body | {"clientRequestId": new_id()}, **{"Idempotency-Key": key}).json()["newBalance"] == 4
    assert add(engine, body | {"clientRequestId": key}).headers["idempotency-replayed"] == "true"


@pytest.mark.parametrize("way", ["header", "body"])
def test_a_repeated_top_up_answers_the_same_bytes(engine: Pluct, way: str) -> None:
    """Also when the balance has changed since."""
    user_id, key = new_id(), new_id()
    body: dict[str, Any] = {"userId": user_id, "amount": 4} | ({"clientRequestId": key} if way == "body" else {})
    headers = {"Idempotency-Key": key} if way == "header" else {}
    first = add(engine, body, **headers)
    assert vend(engine, {"userId": user_id}).status_code == 200
    again = add(engine, body, **headers)
    assert seen(again) == seen(first) == (200, b'{"success":true,"newBalance":4}')
    assert again.headers["idempotency-replayed"] == "true"
    assert engine.available(user_id) == 3
    only_a_sentence(add(engine, body | {"amount": 5}, **headers), 409)
    only_a_sentence(add(engine, body | {"userId": new_id()}, **headers), 409)
    only_a_sentence(add(engine, body | {"reference": new_id()}, **headers), 409)


BAD_KEYS = ["", "k" * 201, "a\nb", "a\tb", "\x00", "\x9f", "\ud800"]


@pytest.mark.parametrize("key", [*BAD_KEYS, 7, True, ["k"], {}])
def test_a_key_in_the_body_follows_the_rule_of_ids(engine: Pluct, key: Any) -> None:
    """`clientRequestId` and `reference`: 1 to 200 characters, none of them a control character, else 400."""
    user_id = engine.funded(1)
    only_a_sentence(vend(engine, {"userId": user_id, "clientRequestId": key}), 400)
    only_a_sentence(add(engine, {"userId": user_id, "amount": 1, "clientRequestId": key}), 400)
    only_a_sentence(add(engine, {"userId": user_id, "amount": 1, "reference": key}), 400)
    assert engine.available(user_id) == 1


@pytest.mark.parametrize("key", [b"", b"k" * 201, b"a\tb", "\x85".encode(), "\U0001f600".encode() * 201])
def test_a_key_in_the_header_follows_the_rule_of_ids(engine: Pluct, key: bytes) -> None:
    """It is UTF-8 and counted in characters."""
    user_id = engine.funded(1)
    headers: Any = SECRET | {"Idempotency-Key": key}
    only_a_sentence(engine.client.post("/vend-token", json={"userId": user_id}, headers=headers), 400)
    only_a_sentence(engine.client.post("/add-credits", json={"userId": user_id, "amount": 1}, headers=headers), 400)
    assert engine.available(user_id) == 1


def test_200_astral_characters_are_a_key_in_either_place(engine: Pluct) -> None:
    """And the same one in both."""
    user_id, key = engine.funded(2), "\U0001f600" * 200
    headers: Any = {"Idempotency-Key": key.encode()}
    first = engine.client.post("/vend-token", json={"userId": user_id}, headers=headers)
    assert seen(vend(engine, {"userId": user_id, "clientRequestId": key})) == seen(first)
    assert engine.available(user_id) == 1


def test_null_keys_are_no_keys(engine: Pluct) -> None:
    """`null` is the same as leaving the field out."""
    user_id = engine.funded(2)
    body = {"userId": user_id, "clientRequestId": None, "reference": None}
    assert vend(engine, body).content != vend(engine, body).content
    assert [add(engine, body | {"amount": 1}).json()["newBalance"] for _ in range(2)] == [1, 2]


def test_one_reference_is_granted_once(engine: Pluct) -> None:
    """The same payment again, in any number: the first answer; for another user or amount: 409."""
    user_id, reference = new_id(), new_id()
    body = {"userId": user_id, "amount": 4, "reference": reference}
    first = add(engine, body)
    assert vend(engine, {"userId": user_id}).status_code == 200
    again = add(engine, body)
    assert seen(again) == seen(first) == (200, b'{"success":true,"newBalance":4}')
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    only_a_sentence(add(engine, body | {"amount": 5}), 409)
    other = new_id()
    only_a_sentence(add(engine, body | {"userId": other}), 409)
    assert (engine.available(user_id), engine.available(other)) == (3, 0)


def test_a_known_reference_under_a_new_key_uses_the_key_too(engine: Pluct) -> None:
    """The answer is the first one, and the new key is taken from then on."""
    user_id, reference, key = new_id(), new_id(), new_id()
    body: dict[str, Any] = {"userId": user_id, "amount": 4, "reference": reference}
    first = add(engine, body | {"clientRequestId": new_id()})
    again = add(engine, body | {"clientRequestId": key})
    assert (seen(again), again.headers["idempotency-replayed"]) == (seen(first), "true")
    only_a_sentence(add(engine, {"userId": user_id, "amount": 4, "clientRequestId": key}), 409)
    only_a_sentence(add(engine, body | {"amount": 9, "clientRequestId": new_id()}), 409)
    assert engine.available(user_id) == 4


def at_once(count: int, send: Callable[[int], httpx.Response]) -> list[httpx.Response]:
    """So many requests in flight together."""
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(send, range(count)))


def test_a_webhook_delivered_many_times_at_once_grants_once(engine: Pluct) -> None:
    """All deliveries get the first one's answer; one of them is not a replay."""
    user_id, reference = new_id(), new_id()
    body = {"userId": user_id, "amount": 7, "reference": reference}
    answers = at_once(8, lambda _: add(engine, body))
    assert {seen(answer) for answer in answers} == {(200, b'{"success":true,"newBalance":7}')}
    assert sum("idempotency-replayed" not in answer.headers for answer in answers) == 1
    assert engine.available(user_id) == 7


def test_a_reference_raced_for_by_two_users_goes_to_one(engine: Pluct) -> None:
    """Eight users name one payment at once: one grant, seven conflicts."""
    users, reference = [new_id() for _ in range(8)], new_id()
    answers = at_once(8, lambda n: add(engine, {"userId": users[n], "amount": 2, "reference": reference}))
    assert sorted(answer.status_code for answer in answers) == [200, *[409] * 7]
    assert sum(engine.available(user_id) for user_id in users) == 2


# Shared with /v1


def test_vending_is_one_operation_on_both_routes(engine: Pluct) -> None:
    """A key used on one route replays on the other, each in its own shape; another request under it is 409."""
    user_id = engine.funded(5)
    body = {"userId": user_id, "clientRequestId": "shared"}
    first = vend(engine, body)
    on_v1 = engine.client.post("/v1/vend-token", json=body | {"action": "default"})
    assert on_v1.json()["token"] == first.json()["token"]
    assert on_v1.json()["balanceAfter"] == 4
    assert on_v1.headers["idempotency-replayed"] == "true"
    assert engine.client.post("/v1/vend-token", json=body | {"action": "transcribe"}).status_code == 409
    back = {"userId": user_id, "clientRequestId": "back"}
    token = engine.client.post("/v1/vend-token", json=back).json()["token"]
    assert vend(engine, back).content == b'{"token":"%s"}' % token.encode()
    transcribe = {"userId": user_id, "clientRequestId": "transcribe"}
    assert engine.client.post("/v1/vend-token", json=transcribe | {"action": "transcribe"}).status_code == 200
    only_a_sentence(vend(engine, transcribe), 409)


def test_topping_up_is_one_operation_on_both_routes(engine: Pluct) -> None:
    """Within one caller's keys; another caller's are another's."""
    user_id, key = new_id(), new_id()
    body = {"userId": user_id, "amount": 4, "clientRequestId": key}
    assert add(engine, body).json()["newBalance"] == 4
    on_v1 = engine.client.post("/v1/credits/add", json=body, headers=SECRET)
    assert (on_v1.json()["newBalance"], on_v1.headers["idempotency-replayed"]) == (4, "true")
    changed = engine.client.post("/v1/credits/add", json=body | {"category": "promotional"}, headers=SECRET)
    assert (changed.status_code, changed.json()["code"]) == (409, "idempotency_key_reused")
    assert engine.client.post("/add-credits", json=body, headers=engine.key("mint")).json()["newBalance"] == 8


def test_a_reference_is_shared_by_every_way_in(engine: Pluct) -> None:
    """Seed, `/v1` with a key, the terminal: whoever names the payment second gets the first answer or 409."""
    user_id, reference = new_id(), new_id()
    body = {"userId": user_id, "amount": 4, "reference": reference}
    granted = engine.json("credits", "grant", user_id, "4", "--reason", "by hand", "--reference", reference)
    answer = add(engine, body)
    assert (seen(answer), answer.headers["idempotency-replayed"]) == ((200, b'{"success":true,"newBalance":4}'), "true")
    on_v1 = engine.client.post("/v1/credits/add", json=body | {"reason": "other"}, headers=engine.key("mint"))
    assert (on_v1.json()["grantId"], on_v1.headers["idempotency-replayed"]) == (granted["grantId"], "true")
    changed = engine.client.post("/v1/credits/add", json=body | {"amount": 5}, headers=SECRET)
    assert (changed.status_code, changed.json()["code"]) == (409, "reference_conflict")
    assert engine.available(user_id) == 4
