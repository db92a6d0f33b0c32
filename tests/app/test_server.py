"""The server of the page, with a worker that only copies: what it takes, what it refuses, what it leaves."""

import http.client
import json
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nldiff.app.server import Server
from nldiff.app.tasks import MOST, Tasks, _safe_name
from nldiff.errors import NldiffError

LIMIT = 0.001  # MB
REFUSED = (403, "only the page of nldiff itself is answered")


class Copier:
    """Copies when it may, refuses what is called bad, and can be ended."""

    def __init__(self) -> None:
        self.may = threading.Event()
        self.may.set()
        self.ended = 0

    def restore(self, source: Path, folder: Path, on_step: Callable[[float, float, str], None]) -> None:
        ended = self.ended
        on_step(1.0, 4.0, "copying 1/4")
        while not self.may.wait(0.01) and self.ended == ended:
            pass
        if self.ended > ended:
            raise NldiffError("ended")
        if source.stem == "bad":
            raise NldiffError(f"{source.name} is bad <i>")
        folder.mkdir()
        shutil.copy(source, folder / "copy.wav")
        (folder / "index.html").write_text("the page", encoding="utf-8")

    def end(self) -> None:
        self.ended += 1


class Client:
    """Asks a server as a browser's page or another program would."""

    def __init__(self, server: Server, folder: Path, worker: Copier) -> None:
        self.server, self.folder, self.worker = server, folder, worker

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: Any) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=20)
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        self.headers = dict(answer.getheaders())
        text = answer.read().decode()
        connection.close()
        return answer.status, str(json.loads(text).get("error", text)) if text.startswith("{") else text

    def upload(self, name: str, body: bytes = b"sound") -> str:
        status, text = self.ask("POST", f"/tasks?name={quote(name)}", body)
        assert status == 201, text
        return str(json.loads(text)["address"])

    def state(self, address: str) -> str:
        return str(json.loads(self.ask("GET", f"{address}state")[1])["state"])

    def wait(self, address: str, state: str) -> None:
        until = time.monotonic() + 20
        while self.state(address) != state:
            assert time.monotonic() < until
            time.sleep(0.01)

    def files(self) -> set[str]:
        return {path.name for path in self.folder.rglob("*") if path.is_file()}


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    worker: Any = Copier()
    tasks = Tasks(worker, tmp_path)
    with Server(0, tasks, LIMIT) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield Client(server, tmp_path, worker)
        server.shutdown()
    tasks.close()


def test_a_recording_becomes_a_page_and_files(client: Client) -> None:
    address = client.upload("take 3 ü.wav", b"some sound")
    client.wait(address, "done")
    assert client.ask("GET", address) == (200, "the page")
    assert client.ask("GET", f"{address}copy.wav") == (200, "some sound")
    assert client.headers["Content-Disposition"] == "attachment; filename*=UTF-8''copy.wav"
    assert client.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert client.files() == {"copy.wav", "index.html"}  # the upload is removed
    assert "take 3 ü.wav</a>: done" in client.ask("GET", "/")[1]


def test_the_start_page_may_load_nothing_from_elsewhere(client: Client) -> None:
    status, text = client.ask("GET", "/")
    assert status == 200
    assert client.server.server_address[0] == "127.0.0.1"
    policy = client.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "http:" not in policy + text and "https:" not in policy + text


def test_progress_is_said(client: Client) -> None:
    client.worker.may.clear()
    address = client.upload("take.wav")
    client.wait(address, "working")
    while "copying" not in client.ask("GET", f"{address}state")[1]:
        time.sleep(0.01)
    values = json.loads(client.ask("GET", f"{address}state")[1])
    assert values == {"state": "working", "phase": "copying 1/4", "done": 1.0, "total": 4.0}
    assert "<progress" in client.ask("GET", address)[1]


def test_what_cannot_be_restored_says_why(client: Client) -> None:
    address = client.upload("bad.wav")
    client.wait(address, "failed")
    assert '<p role="alert">bad.wav is bad &lt;i&gt;</p>' in client.ask("GET", address)[1]
    assert client.files() == set()


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "evil.example:{port}"},  # its name was made to mean this machine
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "https://127.0.0.1:{port}"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ],
)
def test_pages_of_other_sites_are_refused(client: Client, headers: dict[str, Any]) -> None:
    client.worker.may.clear()
    address = client.upload("take.wav")
    sent: dict[str, Any] = {name: value.format(port=client.server.port) for name, value in headers.items()}
    for method, path in (("POST", "/tasks?name=a.wav"), ("POST", f"{address}cancel"), ("GET", f"{address}state")):
        assert client.ask(method, path, b"" if method == "POST" else None, **sent) == REFUSED
    assert len(client.server.tasks.all()) == 1


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_its_own_page_is_answered(client: Client, name: str) -> None:
    host = f"{name}:{client.server.port}"
    own: dict[str, Any] = {"Host": host, "Origin": f"http://{host}", "Sec_Fetch_Site": "same-origin"}
    assert client.ask("POST", "/tasks?name=a.wav", b"sound", **own)[0] == 201
    link: dict[str, Any] = {"Host": host, "Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"}
    assert client.ask("GET", "/", **link)[0] == 200


def test_uploads_have_a_limit_and_a_length(client: Client) -> None:
    assert client.ask("POST", "/tasks?name=big.wav", b"x" * 1001) == (
        413,
        "big.wav: 0.0 MB, at most 0.001 MB are taken (--limit-mb)",
    )
    assert client.ask("POST", "/tasks?name=a.wav", None, Transfer_Encoding="chunked")[0] == 411
    client.upload("just.wav", b"x" * 1000)
    assert len(client.server.tasks.all()) == 1


def test_an_upload_that_ends_early_leaves_nothing(client: Client) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", client.server.port, timeout=20)
    connection.putrequest("POST", "/tasks?name=a.wav")
    connection.putheader("Content-Length", "900")
    connection.endheaders()
    connection.send(b"some")
    until = time.monotonic() + 20
    while not client.server.tasks.all():
        assert time.monotonic() < until
    connection.close()
    while client.server.tasks.all():
        assert time.monotonic() < until
    assert client.files() == set()


def test_work_can_be_cancelled_and_the_next_goes_on(client: Client) -> None:
    client.worker.may.clear()
    first, second = client.upload("a.wav"), client.upload("b.wav")
    client.wait(first, "working")
    assert client.state(second) == "waiting"
    assert client.ask("POST", f"{first}cancel")[0] == 200
    assert client.worker.ended == 1
    client.worker.may.set()
    client.wait(second, "done")
    status, text = client.ask("GET", first)
    assert status == 404 and "There is no such page (any more)." in text
    assert client.files() == {"copy.wav", "index.html"}


def test_only_some_are_kept_and_only_some_may_wait(client: Client) -> None:
    addresses = [client.upload(f"{n}.wav") for n in range(MOST)]
    client.wait(addresses[-1], "done")
    client.wait(client.upload("next.wav"), "done")
    assert [task.name for task in client.server.tasks.all()][:: MOST - 1] == ["next.wav", "1.wav"]
    client.worker.may.clear()
    for n in range(MOST):
        client.upload(f"later{n}.wav")
    status, error = client.ask("POST", "/tasks?name=more.wav", b"x")
    assert (status, error) == (503, f"{MOST} recordings are waiting: try again later")


@pytest.mark.parametrize("rest", ["..%2fupload%2ftake.wav", "%2fetc%2fpasswd", ".", "..", "nothing.wav", "../x"])
def test_only_results_are_handed_out(client: Client, rest: str) -> None:
    address = client.upload("take.wav")
    client.wait(address, "done")
    assert client.ask("GET", address + rest)[0] == 404


@pytest.mark.parametrize("path", ["http://[x", "/tasks/%ff%00/state"])
def test_an_address_that_cannot_be_read_is_answered(client: Client, path: str) -> None:
    host = f"127.0.0.1:{client.server.port}"  # the library cannot tell it from such an address
    assert client.ask("GET", path, Host=host)[0] == 404
    assert client.ask("POST", path, Host=host)[0] == 404


def test_a_name_that_no_folder_can_hold_is_answered(client: Client) -> None:
    address = client.upload("a.wav")
    client.wait(address, "done")
    assert client.ask("GET", address + "x" * 300)[0] == 404


def test_a_length_of_very_many_digits_is_answered(client: Client) -> None:
    assert client.ask("POST", "/tasks?name=a.wav", Content_Length="9" * 5000)[0] == 411


@pytest.mark.parametrize("line", ["GET /", "GET /tasks/x/", "POST /tasks/x/cancel", "POST /tasks?name=a.wav", "PUT /"])
@pytest.mark.parametrize("length", ["Content-Length: {}", "Transfer-Encoding: chunked"])
def test_what_is_sent_along_is_no_request(client: Client, line: str, length: str) -> None:
    host = f"Host: 127.0.0.1:{client.server.port}\r\n"
    hidden = f"GET /hidden HTTP/1.1\r\n{host}\r\n".encode()
    text = f"{line} HTTP/1.1\r\n{host}{length.format(len(hidden))}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", client.server.port), timeout=20) as connection:
        connection.sendall(text.encode() + hidden)
        answer = b""
        while block := connection.recv(1 << 16):
            answer += block
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"Connection: close" in answer


def test_a_port_that_is_taken_is_named(client: Client) -> None:
    with pytest.raises(NldiffError, match=rf"^--port {client.server.port}: 127\.0\.0\.1 cannot be listened to there: "):
        Server(client.server.port, client.server.tasks, LIMIT)
    with pytest.raises(NldiffError, match=r"^--port 70000: "):
        Server(70000, client.server.tasks, LIMIT)


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("take 3.wav", "take 3.wav"),
        ("../../etc/pass\x00wd.flac", "pass_wd.flac"),
        ("C:\\takes\\a.mp4", "a.mp4"),
        ("...", "recording"),
        ("", "recording"),
        (".hidden", "hidden"),
        ("a\nb.wav", "a_b.wav"),
    ],
)
def test_names_become_names_of_files(said: str, name: str) -> None:
    assert _safe_name(said) == name


@given(st.text(max_size=400))
def test_any_name_is_one_that_a_folder_can_hold(tmp_path_factory: pytest.TempPathFactory, said: str) -> None:
    name = _safe_name(said)
    assert Path(name).name == name and not name.startswith(".")
    path = tmp_path_factory.getbasetemp() / f"{name}.restored.preview.html"
    path.touch()
    path.unlink()
