"""Where a request came from: as many proxies are believed as were stated, and nobody left of them."""

import pytest

from pluct.web.address import client_address


@pytest.mark.parametrize(
    ("forwarded", "hops", "found"),
    [
        ([], 0, "peer"), (["1.1.1.1"], 0, "peer"),
        (["1.1.1.1"], 1, "1.1.1.1"), (["9.9.9.9, 1.1.1.1"], 1, "1.1.1.1"), (["9.9.9.9 ,1.1.1.1 "], 1, "1.1.1.1"),
        (["9.9.9.9, 1.1.1.1, 2.2.2.2"], 2, "1.1.1.1"), (["9.9.9.9", "1.1.1.1, 2.2.2.2"], 2, "1.1.1.1"),
        (["9.9.9.9, 1.1.1.1", "2.2.2.2"], 2, "1.1.1.1"), (["2001:db8::1, 10.0.0.1"], 2, "2001:db8::1"),
        (["1.1.1.1"], 2, "peer"), ([], 1, "peer"), ([""], 1, "peer"), ([" , "], 1, "peer"), (["1.1.1.1"], 3, "peer"),
        (["\xff"], 1, "\xff"),
    ],
)  # fmt: skip
def test_who_is_believed(forwarded: list[str], hops: int, found: str) -> None:
    """The address that the outermost stated proxy saw; whoever came past the proxies is whom we see ourselves."""
    headers = [(b"host", b"x"), *((b"x-forwarded-for", line.encode("latin-1")) for line in forwarded)]
    assert client_address({"client": ("peer", 1), "headers": headers}, hops) == found


def test_a_connection_without_an_address() -> None:
    """A socket in the file system has none; it is nobody's address."""
    assert client_address({"client": None, "headers": []}, 0) == ""
