"""A page at a local address: what ``live --html`` shows in a browser."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from gradscope.errors import UsageError

HOST = "127.0.0.1"
"""The only address: other machines cannot reach it."""


class PageServer:
    """Serves one page, made anew for each request, to this machine only.

    Attributes:
        url: its address.
        served_end: set once a page has been served after ``end``.
    """

    def __init__(self, page: Callable[[], str], port: int = 0) -> None:
        """Begin to serve.

        Args:
            page: gives the page; called in the server's thread.
            port: 0 for any free one.

        Raises:
            UsageError: the port is taken or not allowed.
        """
        self._page = page
        self._ended = threading.Event()
        self.served_end = threading.Event()
        try:
            self._server = ThreadingHTTPServer((HOST, port), _handler(self))
        except OSError as error:
            raise UsageError(
                f"port {port} cannot be used: {error.strerror or error}",
                hint="give another --port, or none for any free one",
            ) from error
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        self.url = f"http://{HOST}:{self.port}/"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def end(self) -> None:
        """The page will change no more."""
        self._ended.set()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5)

    def answer(self, host: str | None, path: str) -> tuple[int, str]:
        """Status and body for a request.

        A foreign name that points here (DNS rebinding) is refused: only this page's own address
        may ask.
        """
        if host not in (f"{HOST}:{self.port}", f"localhost:{self.port}"):
            return 403, "forbidden"
        if path.split("?")[0] != "/":
            return 404, "not found"
        over = self._ended.is_set()
        body = self._page()
        if over:
            self.served_end.set()
        return 200, body


def _handler(server: PageServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, text = server.answer(self.headers.get("Host"), self.path)
            body = text.encode("utf-8", "backslashreplace")
            self.send_response(status)
            kind = "text/html" if status == 200 else "text/plain"
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_args: Any) -> None:
            """A request is no news."""

    return Handler
