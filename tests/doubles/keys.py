"""A place on loopback where keys are published."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Publisher:
    """An HTTP server on loopback that publishes keys, or answers anything else, and counts who asks for what."""

    def __init__(self) -> None:
        self.answer: Any = {"keys": []}
        self.status, self.cache_control = 200, "public, max-age=300"
        self.asked: list[str] = []
        self.open = threading.Event()  # closed: requests hang
        self.open.set()
        publisher = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                publisher.asked.append(self.path)
                publisher.open.wait(20)
                body = (
                    publisher.answer if isinstance(publisher.answer, bytes) else json.dumps(publisher.answer).encode()
                )
                self.send_response(publisher.status)
                self.send_header("cache-control", publisher.cache_control)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                self.do_GET()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/jwks.json"

    def publish(self, *keys: Any) -> None:
        """Publish these and no others."""
        self.answer = {"keys": [key.jwk for key in keys]}

    def close(self) -> None:
        """Be away: connections are refused from now on."""
        self.open.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
