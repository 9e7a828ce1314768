"""A proxy in front of an S3 store that lets requests go wrong, by plan.

    with standing_before(store.endpoint, Fault("cut", "GET .*wav", share=0.2)) as proxy:
        os.environ["AWS_ENDPOINT_URL"] = proxy.endpoint
        ...
    assert proxy.injected["cut"] > 3

Requests pass unchanged, Host header and all, so that their signatures stay valid.
"""

from __future__ import annotations

import contextlib
import http.client
import http.server
import random
import re
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

ERRORS = {
    "500": (500, "InternalError", "We encountered an internal error. Please try again."),
    "503": (503, "SlowDown", "Please reduce your request rate."),
}
_ONE_HOP = {"connection", "keep-alive", "transfer-encoding", "expect", "content-length"}


@dataclass(frozen=True)
class Fault:
    """What goes wrong with which requests.

    Attributes:
        kind: "500" and "503" answer with S3's error of that status and leave the store alone; "cut" sends half of the
            store's answer and hangs up.
        matching: regular expression that must be found in `GET /bucket/key?query`.
        share: of the matching requests, drawn from the proxy's seed.
        skip: the first so many matching requests of each path are spared.
        first: behind those, the fault befalls at most so many of each path; None for no end.
    """

    kind: Literal["500", "503", "cut"]
    matching: str
    share: float = 1.0
    skip: int = 0
    first: int | None = None


@dataclass
class Proxy:
    """A running proxy.

    Attributes:
        endpoint: its URL.
        injected: how many requests each kind of fault befell.
        failed: those requests, in order.
        seen: every request in order, `GET /bucket/key?query`.
    """

    endpoint: str
    upstream: str
    faults: tuple[Fault, ...]
    chance: random.Random
    injected: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    _counts: Counter[tuple[Fault, str]] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def fate(self, request: str) -> str:
        """The kind of fault that befalls a request, empty for none."""
        with self._lock:
            self.seen.append(request)
            for fault in self.faults:
                if not re.search(fault.matching, request):
                    continue
                key = fault, request.partition("?")[0]
                self._counts[key] += 1
                number = self._counts[key] - fault.skip
                if number > 0 and (fault.first is None or number <= fault.first) and self.chance.random() < fault.share:
                    self.injected[fault.kind] += 1
                    self.failed.append(request)
                    return fault.kind
        return ""


@contextlib.contextmanager
def standing_before(endpoint: str, *faults: Fault, seed: int = 0) -> Iterator[Proxy]:
    """Runs a proxy on a free port of loopback.

    Args:
        endpoint: URL of the store.
        faults: the first one that fits a request befalls it.
        seed: of what `share` draws.
    """
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    url = f"http://127.0.0.1:{server.server_address[1]}"
    proxy = _Handler.proxies[server.server_address[1]] = Proxy(
        url, urlsplit(endpoint).netloc, faults, random.Random(seed)
    )
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        del _Handler.proxies[server.server_address[1]]


class _Handler(http.server.BaseHTTPRequestHandler):
    """One client's connection."""

    protocol_version = "HTTP/1.1"
    proxies: dict[int, Proxy] = {}  # noqa: RUF012 — by port; the server makes a handler a connection

    def handle_request(self) -> None:
        proxy = self.proxies[self.server.server_address[1]]
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fate = proxy.fate(f"{self.command} {self.path}")
        if fate in ERRORS:
            status, code, message = ERRORS[fate]
            xml = (
                f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'
            )
            self._answer(status, [("Content-Type", "application/xml")], xml.encode())
            return
        connection = http.client.HTTPConnection(proxy.upstream, timeout=60)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in _ONE_HOP:
                    connection.putheader(name, value)
            connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            content = answer.read()
            headers = [(name, value) for name, value in answer.getheaders() if name.lower() not in _ONE_HOP]
            if self.command == "HEAD" and (length := answer.getheader("Content-Length")):
                self._answer(answer.status, headers, b"", int(length))
            else:
                self._answer(answer.status, headers, content[: len(content) // 2] if fate else content, len(content))
        finally:
            connection.close()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_request

    def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes, promised: int | None = None) -> None:
        """Sends an answer; where it promises more bytes than it has, the connection ends with it."""
        promised = len(content) if promised is None else promised
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(promised))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
            self.close_connection = self.close_connection or len(content) < promised

    def log_message(self, format: str, *args: object) -> None:
        """The proxy keeps its own count."""
