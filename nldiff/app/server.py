"""The web server of the page: it listens on the loopback interface only, and answers its own page only."""

import json
import os
import shutil
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingTCPServer
from typing import Any
from urllib.parse import SplitResult, parse_qs, quote, unquote, urlsplit

from nldiff.app.tasks import DONE, FAILED, MOST, Task, Tasks
from nldiff.app.worker import PAGE
from nldiff.errors import NldiffError
from nldiff.report.pages import render, text_of
from nldiff.sound import AUDIO_SUFFIXES, FFMPEG_SUFFIXES
from nldiff.version import __version__

HOST = "127.0.0.1"
_BLOCK = 1 << 20
_DIGITS = 30  # of the length of an upload
_HTML = "text/html; charset=utf-8"
_TYPES = {".wav": "audio/wav", ".csv": "text/csv", ".png": "image/png", ".json": "application/json"}
# The page takes nothing from elsewhere, sends nothing elsewhere, and is not shown inside another one.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data:; media-src data: blob:; connect-src 'self' data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


class Server(ThreadingTCPServer):
    """Serves the page of some tasks on the loopback interface.

    Args:
        port: 1 to 65535, or 0 for any that is free.
        tasks: what is restored.
        limit: largest upload, MB.

    Raises:
        NldiffError: the port cannot be used.
    """

    allow_reuse_address = os.name != "nt"  # there it would let another program listen on the same port
    daemon_threads = True
    block_on_close = False

    def __init__(self, port: int, tasks: Tasks, limit: float) -> None:
        self.tasks, self.limit = tasks, limit
        try:
            super().__init__((HOST, port), _Handler)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise NldiffError(f"--port {port}: {HOST} cannot be listened to there: {reason}") from error
        self.port = int(self.server_address[1])

    @property
    def address(self) -> str:
        """Address of the page."""
        return f"http://{HOST}:{self.port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of connections that the browser gave up; the terminal is for the user."""


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = f"nldiff/{__version__}", ""
    timeout = 60.0

    def do_GET(self) -> None:
        if not self._ours():
            return
        path = self._parts.path
        if path == "/":
            self._send(_start_page(self.server), _HTML)
            return
        task, rest = self._task(path)
        if task is None:
            text = _start_page(self.server, "There is no such page (any more).")
            self._send(text, _HTML, HTTPStatus.NOT_FOUND)
        elif rest == "":
            text = (task.results / PAGE).read_text(encoding="utf-8") if task.state == DONE else _task_page(task)
            self._send(text, _HTML)
        elif rest == "state":
            values = {"state": task.state, "phase": task.phase, "done": task.done, "total": task.total}
            self._send(json.dumps(values), _TYPES[".json"])
        else:
            self._send_file(task, unquote(rest))

    def do_POST(self) -> None:
        if not self._ours():
            return
        parts = self._parts
        task, rest = self._task(parts.path)
        if parts.path == "/tasks":
            self._upload(parse_qs(parts.query, errors="replace").get("name", [""])[0])
        elif task and rest == "cancel":
            self.server.tasks.remove(task)
            self._send("{}", _TYPES[".json"])
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "there is no such page (any more)")

    @property
    def _parts(self) -> SplitResult:
        """The address that was asked for; where it cannot be read, one that is not there."""
        try:
            return urlsplit(self.path)
        except ValueError:
            return urlsplit("/unreadable")

    def _ours(self) -> bool:
        """Refuse what another site's page asks for: by its own name for this machine, or from where it is."""
        # Only uploads are read: what else is sent along must not be taken for the next request.
        if self.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in self.headers:
            self.close_connection = True
        names = {f"{name}:{self.server.port}" for name in (HOST, "localhost")}
        host, origin = self.headers.get("Host", ""), self.headers.get("Origin")
        same = self.headers.get("Sec-Fetch-Site", "none") in ("none", "same-origin")
        if self.command == "GET" and self.headers.get("Sec-Fetch-Mode") == "navigate":
            same = True  # a link from elsewhere
        if host in names and (origin is None or origin == f"http://{host}") and same:
            return True
        self._refuse(HTTPStatus.FORBIDDEN, "only the page of nldiff itself is answered")
        return False

    def _task(self, path: str) -> tuple[Task | None, str]:
        """The task of an address /tasks/KEY/REST, and the rest."""
        parts = path.split("/", 3)
        found = self.server.tasks.find(parts[2]) if len(parts) == 4 and parts[1] == "tasks" else None
        return found, parts[-1]

    def _upload(self, name: str) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or len(length) > _DIGITS or "Transfer-Encoding" in self.headers:
            self._refuse(HTTPStatus.LENGTH_REQUIRED, "an upload needs its length")
            return
        if int(length) > self.server.limit * 1e6:
            text = f"{name}: {int(length) / 1e6:.1f} MB, at most {self.server.limit:g} MB are taken (--limit-mb)"
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, text)
            return
        try:
            task = self.server.tasks.create(name)
        except (NldiffError, OSError) as error:
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, str(error))
            return
        try:
            self._receive(task.source, int(length))
        except OSError as error:
            self.server.tasks.remove(task)
            self._refuse(HTTPStatus.INSUFFICIENT_STORAGE, f"{task.name} cannot be kept: {error.strerror or error}")
            return
        self.server.tasks.submit(task)
        self._send(json.dumps({"address": f"/tasks/{task.key}/"}), _TYPES[".json"], HTTPStatus.CREATED)

    def _receive(self, path: Path, length: int) -> None:
        with path.open("xb") as file:
            while length:
                block = self.rfile.read(min(length, _BLOCK))
                if not block:
                    raise OSError("the upload ended early")
                length -= file.write(block)

    def _send_file(self, task: Task, name: str) -> None:
        path = task.results / name
        # names are compared: others may be longer than a file system allows
        if task.state != DONE or name not in os.listdir(task.results):
            self._refuse(HTTPStatus.NOT_FOUND, "there is no such file (any more)")
            return
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            kind = _TYPES.get(path.suffix, "application/octet-stream")
            self._head(
                HTTPStatus.OK, kind, size, {"Content-Disposition": f"attachment; filename*=UTF-8''{quote(name)}"}
            )
            shutil.copyfileobj(file, self.wfile)

    def _refuse(self, status: HTTPStatus, reason: str) -> None:
        self.close_connection = True  # what was sent is not read
        self._send(json.dumps({"error": reason}), _TYPES[".json"], status)

    def _send(self, text: str, kind: str, status: HTTPStatus = HTTPStatus.OK) -> None:
        data = text.encode()
        self._head(status, kind, len(data), {})
        self.wfile.write(data)

    def _head(self, status: HTTPStatus, kind: str, size: int, more: dict[str, str]) -> None:
        self.send_response(status)
        close = {"Connection": "close"} if self.close_connection else {}
        for name, value in ({"Content-Type": kind, "Content-Length": str(size)} | _HEADERS | close | more).items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the terminal is for the user."""


def _start_page(server: Server, error: str = "") -> str:
    suffixes = ",".join(sorted({"audio/*", "video/*"} | AUDIO_SUFFIXES | FFMPEG_SUFFIXES))
    return _page(
        task=None,
        title="Restore a recording",
        error=error,
        accept=suffixes,
        limit=server.limit,
        tasks=server.tasks.all(),
    )


def _task_page(task: Task) -> str:
    return _page(task=task, title=f"{task.name}: {'not restored' if task.state == FAILED else 'being restored'}")


def _page(**values: Any) -> str:
    style, theme, script = (text_of(name) for name in ("page.css", "page.js", "app.js"))
    return render("app.html", css=style, js=theme, app_js=script, most=MOST, version=__version__, **values)
