"""Who may talk to the live service: tokens, and protection of a service on this machine's address.

A page of another site can send requests to 127.0.0.1 from the browser of a person who visits it. So
requests need the name under which the service was opened (`Host`), and those of a page its
own address (`Origin`). A service that others can reach needs a token as well.
"""

import hmac
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")


def is_local(host: str) -> bool:
    """Whether only this machine can reach a service bound to `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class Access:
    """host: the address that the service is bound to; token: None where none is needed."""

    host: str
    token: str | None

    def refusal(self, headers: Mapping[str, str], query: Mapping[str, str]) -> str:
        """Why a request is refused; "" where it is not.

        headers: with lower-case names. The token is in the query or in `Authorization: Bearer`.
        """
        if "\0" in headers.get("host", "") or not headers.get("host"):
            return "the request has no Host"
        try:
            name = urlsplit("//" + headers["host"]).hostname or ""
            origin = urlsplit(headers.get("origin", "//" + headers["host"])).netloc
        except ValueError:  # such as of "[": not an IPv6 address
            return "the request's Host or Origin is not an address"
        if is_local(self.host) and not is_local(name):
            return f"Host {name}: expected one of {', '.join(LOCAL_NAMES)}"
        if origin != headers["host"]:
            return "a page of another address may not use this service"
        if self.token is None:
            return ""
        scheme, _, given = headers.get("authorization", "").partition(" ")
        given = given if scheme.lower() == "bearer" else query.get("token", "")
        if not hmac.compare_digest(given.encode(), self.token.encode()):
            return "the token is missing or wrong; the service printed it when it started"
        return ""
