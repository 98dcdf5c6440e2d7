"""The console as a program uses it: pages over HTTP, their forms, and the session's cookie."""

import re
from html import unescape
from typing import Any

import httpx


class Browser:
    """What a browser does: it keeps cookies, follows addresses and sends the forms that pages have."""

    def __init__(self, url: str, **headers: str) -> None:
        limits = httpx.Limits(max_keepalive_connections=0)  # nothing to be closed
        self.client = httpx.Client(base_url=url, follow_redirects=True, headers=headers, timeout=30, limits=limits)
        self.page = httpx.Response(200)

    def get(self, path: str, **query: str) -> str:
        self.page = self.client.get("/console" + path, params=query or None)
        return self.page.text

    def post(self, path: str, **fields: Any) -> str:
        self.page = self.client.post("/console" + path, data=fields)
        return self.page.text

    def sign_in(self, key: dict[str, str]) -> str:
        return self.post("/sign-in", key=key["Authorization"].removeprefix("Bearer "))

    def fields(self, action: str) -> dict[str, str]:
        """The hidden fields of the form on this page that goes there."""
        (form,) = re.findall(rf'<form[^>]*action="/console{action}"[^>]*>(.*?)</form>', self.page.text, re.S)
        found = re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)">', form)
        return {name: unescape(value) for name, value in found}
