"""A server on loopback that answers as S3 does for a bucket that anybody may read, and keeps who asked."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlparse

_LISTING = (
    '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>{bucket}</Name>'
    "<KeyCount>{count}</KeyCount><IsTruncated>false</IsTruncated>{contents}</ListBucketResult>"
)
_OBJECT = (
    "<Contents><Key>{key}</Key><Size>{size}</Size><LastModified>2024-01-01T00:00:00.000Z</LastModified></Contents>"
)


@contextlib.contextmanager
def serve(bucket: str, objects: dict[str, bytes]) -> Iterator[tuple[str, list[str | None]]]:
    """The endpoint, and the `Authorization` of each request so far."""
    asked: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(send=False)

        def do_GET(self) -> None:
            self._answer(send=True)

        def _answer(self, send: bool) -> None:
            asked.append(self.headers.get("Authorization"))
            url = urlparse(self.path)
            name, _, key = unquote(url.path).strip("/").partition("/")
            if name != bucket or (key and key not in objects):
                self._reply(404, b"", {}, send)
            elif key:
                data, headers = objects[key], {"ETag": '"1"', "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}
                span = self.headers.get("Range")
                if span is None:
                    self._reply(200, data, headers, send)
                else:
                    first, last = span.removeprefix("bytes=").split("-")
                    part = data[int(first) : int(last or len(data)) + 1]
                    headers["Content-Range"] = f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}"
                    self._reply(206, part, headers, send)
            else:
                prefix = parse_qs(url.query).get("prefix", [""])[0]
                found = [_OBJECT.format(key=key, size=len(objects[key])) for key in objects if key.startswith(prefix)]
                listing = _LISTING.format(bucket=bucket, count=len(found), contents="".join(found))
                self._reply(200, listing.encode(), {"Content-Type": "application/xml"}, send)

        def _reply(self, status: int, body: bytes, headers: dict[str, str], send: bool) -> None:
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(body))}).items():
                self.send_header(name, value)
            self.end_headers()
            if send:
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
