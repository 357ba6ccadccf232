"""`rnn-export serve-web`: the files, the clients, and its end."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from click.testing import CliRunner

from rnn_export.bundle.draft import Draft
from rnn_export.cli.main import main
from rnn_export.runtime.serve.web import PackageServer, read_package

from ..messages import raises  # noqa: TID252

FILES = {"index.html": b"<p>page", "page.js": b"1", "model.wasm": b"\0asm", "model.json": b"{}", "weights.bin": b"\1"}


@pytest.fixture
def server() -> Iterator[PackageServer]:
    with PackageServer(FILES) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


def ask(port: int, path: str, method: str = "GET", host: str | None = None) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request(method, path, headers={"Host": host} if host else {})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, dict(answer.getheaders()), body


@pytest.mark.parametrize(
    ("path", "name", "kind"),
    [
        ("/", "index.html", "text/html; charset=utf-8"),
        ("/page.js?again", "page.js", "text/javascript; charset=utf-8"),
        ("/model.wasm", "model.wasm", "application/wasm"),
        ("/model.json", "model.json", "application/json"),
        ("/weights.bin", "weights.bin", "application/octet-stream"),
    ],
)
def test_every_file_has_its_type_and_goes_nowhere_else(server, path, name, kind):
    status, headers, body = ask(server.server_port, path)
    assert (status, body, headers["Content-Type"]) == (200, FILES[name], kind)
    assert headers["Content-Security-Policy"].startswith("default-src 'self'; ")
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert ask(server.server_port, path, "HEAD")[2] == b""


@pytest.mark.parametrize(
    "path", ["/other.js", "/../index.html", "//etc/passwd", "/%2e%2e/index.html", "/targets/page.js"]
)
def test_nothing_else_is_there(server, path):
    assert ask(server.server_port, path)[0] == 404
    assert ask(server.server_port, "/", "POST")[0] == 501


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost:8000", 200), ("127.0.0.1", 200), ("evil.example", 403), ("127.0.0.1.evil.example:80", 403)],
)
def test_a_page_of_others_that_names_itself_so_gets_nothing(server, host, status):
    assert ask(server.server_port, "/", host=host)[0] == status


def test_it_listens_on_this_machine_alone(server):
    assert server.server_address[0] == "127.0.0.1"
    assert server.url == f"http://127.0.0.1:{server.server_port}/"


def test_a_port_that_cannot_be_had_is_refused(server):
    taken = server.server_port
    with raises("web-port-unusable", f"{taken} of 127.0.0.1 is taken"):
        PackageServer(FILES, taken)


def test_a_bundle_without_the_package_is_refused():
    from rnn_export.contract.spec import StateSpec, StreamSpec, TensorSpec

    x, y = TensorSpec("x", "float32", ("batch", 1)), TensorSpec("y", "float32", ("batch", 1))
    spec = StreamSpec((x,), (y,), (StateSpec("h", "h", "h.next", "float32", ("batch", 1)),))
    with raises("target-not-in-bundle", "'wasm'", "none"):
        read_package(Draft(spec, {}, (), {}))


def test_the_address_of_servers_is_no_bundle():
    result = CliRunner().invoke(main, ["serve-web", "grpc://host/vad"])
    assert result.exit_code == 1
    assert "is the address of servers, but this needs the bundle NAME.rnnx." in result.stderr


def test_the_command_serves_until_ctrl_c(packed):
    its = packed("lstm")
    code = "from rnn_export.cli.main import main; main()"
    command = [sys.executable, "-c", code, "serve-web", str(its.bundle), "--port", "0", "--json"]
    # Whoever runs the tests in the background has it ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, before)
    assert started.stderr is not None
    said = started.stderr.readline()
    port = int(re.fullmatch(r"http://127\.0\.0\.1:(\d+)/ \(Ctrl-C ends it\)\n", said)[1])
    status, _, body = ask(port, "/model.json")
    os.kill(started.pid, signal.SIGINT)
    out, err = started.communicate(timeout=30)
    assert (status, started.returncode, err) == (200, 0, "")
    assert json.loads(body)["name"] == "lstm"
    assert json.loads(out)["url"] == f"http://127.0.0.1:{port}/"
