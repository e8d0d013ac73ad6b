"""A proxy in front of an HTTP server, which fails in the ways that object stores do."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import urlsplit

Fault = Literal["throttled", "failing", "silent", "denied", "gone"]
ANSWERS = {"throttled": (503, "SlowDown"), "failing": (500, "InternalError"), "denied": (403, "AccessDenied")}
_HOP_BY_HOP = ("connection", "transfer-encoding", "keep-alive", "content-length")


class FaultyProxy:
    """Passes requests on, or has the fault that it is told to have."""

    def __init__(self, endpoint: str) -> None:
        self.fault: Fault | None = None
        self.met_by = ""
        """What is in the path of the requests that meet it."""
        self.hits = 0
        """Requests that met the fault."""
        self._mended = threading.Event()
        self._target = urlsplit(endpoint).netloc
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def break_down(self, fault: Fault, met_by: str = "") -> None:
        """Have this fault from now on, for requests with this in their path."""
        self.hits, self.met_by = 0, met_by
        self._mended.clear()
        self.fault = fault

    def mend(self) -> None:
        """Pass all on again; who waits for an answer gets none any more."""
        self.fault = None
        self._mended.set()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if (fault := proxy.fault) is None or proxy.met_by not in self.path:
                    self._pass_on(body)
                    return
                proxy.hits += 1
                if fault == "silent":
                    proxy._mended.wait()
                if fault in ("silent", "gone"):  # the connection ends without an answer
                    self.close_connection = True
                    return
                status, code = ANSWERS[fault]
                text = f"<Error><Code>{code}</Code><Message>{code}, says the proxy</Message></Error>".encode()
                self._answer(status, {"Content-Type": "application/xml"}, text)

            def _pass_on(self, body: bytes) -> None:
                connection = HTTPConnection(proxy._target, timeout=30)
                try:
                    connection.request(self.command, self.path, body, dict(self.headers))
                    answer = connection.getresponse()
                    headers = {name: value for name, value in answer.getheaders() if name.lower() not in _HOP_BY_HOP}
                    length = answer.getheader("Content-Length") if self.command == "HEAD" else None
                    self._answer(answer.status, headers, answer.read(), length)
                finally:
                    connection.close()

            def _answer(self, status: int, headers: dict[str, str], body: bytes, length: str | None = None) -> None:
                self.send_response_only(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", length or str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any

        return Handler


@contextmanager
def faulty_proxy(endpoint: str) -> Iterator[FaultyProxy]:
    """Stand before the server for as long as the block runs."""
    proxy = FaultyProxy(endpoint)
    serving = threading.Thread(target=proxy._server.serve_forever, daemon=True)
    serving.start()
    try:
        yield proxy
    finally:
        proxy.mend()
        proxy._server.shutdown()
        proxy._server.server_close()
