"""Who asks: the owner of what they ask for, and whether they may."""

import base64
import binascii
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie

COOKIE = "diafano"


@dataclass(frozen=True)
class Credentials:
    """Users by name, each with a key that is a password (HTTP Basic) and a bearer token in one."""

    keys: Mapping[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.keys)

    def user(self, authorization: str) -> str | None:
        """The user that the header's value tells of; None: nobody here."""
        scheme, _, said = authorization.strip().partition(" ")
        if scheme.lower() == "bearer":
            return next((user for user, key in self.keys.items() if _same(key, said.strip())), None)
        if scheme.lower() == "basic":
            try:
                name, _, key = base64.b64decode(said.strip(), validate=True).decode().partition(":")
            except (binascii.Error, ValueError):
                return None
            return name if _same(self.keys.get(name, ""), key) and name in self.keys else None
        return None


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode())


def owner_of(headers: Mapping[str, str], address: str, user: str | None) -> str:
    """Whose queue a request is of: the user's, else the page's by its cookie, else the address's."""
    if user is not None:
        return f"user {user}"
    try:
        cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        cookie = None
    if cookie is not None and 16 <= len(cookie.value) <= 64 and cookie.value.isalnum():
        return f"page {cookie.value}"
    return f"address {address}"
