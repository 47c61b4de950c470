"""Images from urls that strangers give: fetched from public addresses only, within limits of bytes and seconds.

A server inside a network can reach what its clients cannot: other services, the cloud's metadata. So the name is resolved
once, every address is looked at, and the connection goes to that very address; redirects pass the same door. Proxies of the
environment are not used: behind one, the address that is looked at would not be the one that is reached.
"""

from __future__ import annotations

import http.client
import ipaddress
import os
import re
import socket
import ssl
import threading
import time
from contextlib import suppress
from urllib.parse import urljoin, urlsplit

from serve_app.limits import Refused

ALLOW_PRIVATE = "HRDA_ALLOW_PRIVATE_URLS"  # environment variable; 1 allows private addresses
REDIRECTS = 3
CHUNK = 2**16
NAT64 = ipaddress.ip_network("64:ff9b::/96")
NOT_FOR_STRANGERS = [  # which Python calls global: Azure's platform, protocols' own, and what came before fc00::/7
    ipaddress.ip_network(network) for network in ("168.63.129.16/32", "192.0.0.0/24", "fec0::/10")
]
LONGEST_URL = 4096
AGENT = "hrda-serve"


def fetch_image(url: str, max_bytes: int, seconds: float = 30.0, allow_private: bool | None = None) -> bytes:
    """The content behind an http(s) url.

    Args:
        max_bytes: of the content. seconds: for all of it, redirects included.
        allow_private: also addresses of private networks; None asks the environment variable HRDA_ALLOW_PRIVATE_URLS.

    Raises:
        Refused: 400 for a url that is not fetched or a server that does not hand out the file, 413 for too many bytes.
    """
    private = os.environ.get(ALLOW_PRIVATE, "").lower() in ("1", "true", "yes") if allow_private is None else allow_private
    end = time.monotonic() + seconds
    for _ in range(REDIRECTS + 1):
        answer = _fetch(url, max_bytes, end, private)
        if isinstance(answer, bytes):
            return answer
        url = urljoin(url, answer)
    raise Refused(400, "url_not_fetched", f"the url was redirected more than {REDIRECTS} times; give the final one")


def safe_file_name(name: str | None, fallback: str = "image") -> str:
    """A name for a local file that stays in its folder: without directories, control characters and leading dots."""
    last = re.split(r"[\\/]", name or "")[-1]
    plain = re.sub(r"[^\w\-. ()+]", "_", last).strip(". ")
    stem, dot, suffix = plain.rpartition(".")
    cut = f"{stem[:100]}{dot}{suffix[:10]}" if dot else plain[:100]
    return cut if re.search(r"\w", cut) else fallback


def public_addresses(host: str, port: int, allow_private: bool) -> list[str]:
    """The addresses of a host; one that is not public refuses them all, since a name may hide it among good ones.

    Raises:
        Refused: the name is unknown, or an address is private, loopback, link-local (the metadata services' too) or reserved.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise Refused(400, "url_not_fetched", f"the url's host {host[:80]!r} is not known; check the address") from error
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    for address in addresses:
        if not allow_private and not _is_public(address):
            raise Refused(
                400,
                "private_url",
                f"the url's host {host[:80]!r} has the address {address}, which is not public; send the image itself, or set "
                f"{ALLOW_PRIVATE}=1 on the server",
            )
    return addresses


def _is_public(address: str) -> bool:
    ip = ipaddress.ip_address(address.split("%")[0])  # without the zone of a link-local address
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if ip in NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return _is_public(str(inner))
    if any(ip in network for network in NOT_FOR_STRANGERS):
        return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified or ip.is_loopback or ip.is_link_local)


def _fetch(url: str, max_bytes: int, end: float, private: bool) -> bytes | str:
    """The content, or where the server redirects to."""
    scheme, host, port, target = _parts(url)
    address = public_addresses(host, port, private)[0]
    left = end - time.monotonic()
    if left <= 0:
        raise _too_slow()
    try:
        connection = _Pinned(scheme, host, port, address, left)
        watchdog = threading.Timer(left, connection.abort)  # a timeout of the socket starts anew with every byte
        watchdog.daemon = True
        watchdog.start()
        try:
            connection.request("GET", target, headers={"User-Agent": AGENT, "Accept": "image/*", "Accept-Encoding": "identity"})
            response = connection.getresponse()
            if response.status in (301, 302, 303, 307, 308) and response.headers.get("Location"):
                return str(response.headers["Location"])
            if response.status != 200:
                raise Refused(400, "url_not_fetched", f"the url's server answers {response.status}; check the address")
            return _read(response, max_bytes, end)
        finally:
            watchdog.cancel()
            connection.close()
    except (OSError, http.client.HTTPException, ValueError) as error:
        if isinstance(error, Refused):
            raise
        if time.monotonic() >= end or isinstance(error, TimeoutError):
            raise _too_slow() from error
        reason = type(error).__name__ if not isinstance(error, ssl.SSLError) else f"TLS: {error.reason}"
        raise Refused(400, "url_not_fetched", f"the url could not be fetched ({reason}); check that it is reachable") from error


def _parts(url: str) -> tuple[str, str, int, str]:
    """Scheme, host, port and target (path and query) of an http(s) url."""
    if not isinstance(url, str) or not 0 < len(url) <= LONGEST_URL or re.search(r"[\x00-\x20\x7f]", url):
        raise Refused(400, "bad_url", f"url={str(url)[:80]!r}: use an http or https address without blanks")
    try:
        parts = urlsplit(url)
        port = parts.port
        host = (parts.hostname or "").encode("idna").decode() if ":" not in (parts.hostname or "") else str(parts.hostname)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        target.encode("ascii")
    except ValueError as error:  # UnicodeError is one
        raise Refused(400, "bad_url", f"url={url[:80]!r}: is no valid address; percent-encode what is not ASCII") from error
    if parts.scheme not in ("http", "https") or not host:
        raise Refused(400, "bad_url", f"url={url[:80]!r}: use an http or https address with a host")
    if parts.username is not None or parts.password is not None:
        raise Refused(400, "bad_url", "the url holds a user name or password, which are not sent; use a signed url")
    return parts.scheme, host, port or (443 if parts.scheme == "https" else 80), target


class _Pinned(http.client.HTTPConnection):
    """Speaks to `host` at the one `address` that was checked; TLS is checked against the host's name."""

    def __init__(self, scheme: str, host: str, port: int, address: str, seconds: float) -> None:
        super().__init__(host, port, timeout=seconds)
        self._scheme = scheme
        self._address = address
        self._socket: socket.socket | None = None
        if scheme == "https":
            self.default_port = 443

    def connect(self) -> None:
        self.sock = self._socket = socket.create_connection((self._address, self.port), self.timeout)
        if self._scheme == "https":
            context = ssl.create_default_context()
            secure = context.wrap_socket(self.sock, server_hostname=self.host, do_handshake_on_connect=False)
            self.sock = self._socket = secure  # known to `abort` before the handshake, which may take for ever too
            secure.do_handshake()

    def abort(self) -> None:
        """From another thread: whoever reads from the connection gets an error or its end."""
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)


def _read(response: http.client.HTTPResponse, max_bytes: int, end: float) -> bytes:
    if (response.length or 0) > max_bytes:
        raise _too_large(max_bytes)
    content = bytearray()
    while chunk := response.read(CHUNK):
        content += chunk
        if len(content) > max_bytes:
            raise _too_large(max_bytes)
        if time.monotonic() >= end:
            raise _too_slow()
    if response.length:  # the server promised more than came
        raise _too_slow() if time.monotonic() >= end else Refused(400, "url_not_fetched", "the url's file was cut off; try again")
    return bytes(content)


def _too_large(max_bytes: int) -> Refused:
    return Refused(413, "url_too_large", f"the url's file has more than {max_bytes / 2**20:g} MB; use a smaller one")


def _too_slow() -> Refused:
    return Refused(400, "url_too_slow", "the url's server takes too long; send the image itself")
