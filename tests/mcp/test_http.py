"""The server over HTTP, as a real process: both protocols, what is refused, how it begins and how it ends."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from click.testing import CliRunner
from http_peer import Served, environment, served
from mcp import Client
from mcp_types import PromptReference, ResourceTemplateReference, TextResourceContents
from stdio_peer import MODERN, call, request

from symmetra_mcp.cli import cli
from symmetra_mcp.completions import RULE_ADDRESS

HANGING = str(Path(__file__).with_name("hanging_http_server.py"))
GONE_S = 2.0
TASKS = "io.modelcontextprotocol/tasks"
TOKEN = "Zq7-Xk2w" * 5


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("served"), SYMMETRA_STARTER_RULES="1") as started:
        yield started


def wait_for(mark: Path) -> None:
    for _ in range(400):
        if mark.exists():
            return
        time.sleep(0.05)
    raise AssertionError(f"no {mark.name}")


# Both protocols


@pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
def test_everything_is_answered_in_both_protocols(server: Served, mode: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    async def talk() -> None:
        async with Client(server.url, mode=mode) as client:
            tools = await client.list_tools()
            assert [tool.name for tool in tools.tools] == ["search_rules", "embed_text", "health_check", "reembed_all"]
            found = await client.call_tool("search_rules", {"query": "where should embeddings be stored?"})
            assert not found.is_error
            assert found.structured_content is not None
            hit = found.structured_content["hits"][0]
            address = f"rule://{hit['project_id']}/{hit['rule_id']}"
            (content,) = (await client.read_resource(address)).contents
            assert isinstance(content, TextResourceContents)
            assert content.text.startswith("# ")
            assert (await client.list_resource_templates()).resource_templates[0].uri_template == RULE_ADDRESS
            prompt = await client.get_prompt("review_code", {"code": "print(password)"})
            assert "<rules>" in prompt.messages[0].content.text  # type: ignore[union-attr]
            projects = await client.complete(
                ResourceTemplateReference(uri=RULE_ADDRESS), {"name": "project_id", "value": "st"}
            )
            assert projects.completion.values == ["starter"]
            categories = await client.complete(
                PromptReference(name="review_code"), {"name": "category", "value": "sec"}
            )
            assert categories.completion.values == ["security"]

    anyio.run(talk)


def test_a_task_is_begun_asked_for_and_cancelled(server: Served) -> None:
    begun = server.modern(
        "tools/call", "reembed_all", [TASKS], name="reembed_all", arguments={"force": True, "confirm": True}
    ).message["result"]
    assert begun["resultType"] == "task"
    task = begun["taskId"]
    asked = server.modern("tasks/get", task, [TASKS], taskId=task).message["result"]
    assert asked["status"] in ("working", "completed")
    assert server.modern("tasks/get", "another", [TASKS], taskId=task).message["error"]["code"] == -32020
    assert "result" in server.modern("tasks/cancel", task, [TASKS], taskId=task).message


def test_a_session_is_opened_listened_to_and_closed(server: Served) -> None:
    session = server.greet()
    with server.open("GET", Mcp_Session_Id=session) as stream:
        assert (stream.status, stream.getheader("Content-Type")) == (200, "text/event-stream")
        assert server.legacy(request(1, "ping"), session).message["result"] == {}
        assert server.ask("DELETE", Mcp_Session_Id=session).status == 200
        assert stream.read() == b""  # the server has ended it
    assert server.legacy(request(2, "ping"), session).status == 404
    assert server.ask("GET").status == 400  # whoever listens says to what
    for method in ("GET", "DELETE"):
        assert server.ask(method, MCP_Protocol_Version="2026-07-28").status == 405


# What is refused

DISCOVER = request(1, "server/discover", _meta=MODERN)
MODERN_HEADERS = {"MCP_Protocol_Version": "2026-07-28", "Mcp_Method": "server/discover"}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:{port}"}, 200),
        ({"Host": "[::1]:{port}"}, 200),
        ({"Origin": "http://localhost:{port}"}, 200),
        ({"Host": "rules.example.com"}, 421),
        ({"Host": "127.0.0.1:1"}, 421),
        ({"Host": "127.0.0.1"}, 421),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "http://localhost:1"}, 403),
        ({"Origin": "null"}, 403),
        ({"Mcp_Method": "tools/list"}, 400),
        ({"Content_Type": "text/plain"}, 400),
    ],
    ids=str,
)
def test_hosts_origins_and_headers_are_checked(server: Served, headers: dict[str, str], status: int) -> None:
    sent = {name: value.replace("{port}", str(server.port)) for name, value in headers.items()}
    answer = server.ask("POST", DISCOVER, **{**MODERN_HEADERS, **sent})
    assert answer.status == status
    if "Mcp_Method" in headers:
        assert answer.message["error"]["code"] == -32020


@pytest.mark.parametrize("path", ["/", "/mcp/", "/.well-known/oauth-protected-resource/mcp"])
def test_other_paths_are_not_there_and_check_the_host_too(server: Served, path: str) -> None:
    assert server.ask("GET", path=path).status in (307, 404)
    assert server.ask("GET", path=path, Host="evil.example").status == 421


@pytest.mark.parametrize("era", [{}, MODERN_HEADERS])
def test_a_body_of_more_than_four_mebibytes_is_refused(server: Served, era: dict[str, str]) -> None:
    assert server.ask("POST", b" " * (4 * 2**20 + 1), **era).status == 413
    assert server.ask("POST", b" " * (4 * 2**20), **era).status == 400  # it is read, and no message


def test_what_is_no_message_is_refused_and_the_next_one_answered(server: Served) -> None:
    for body in (b"{", b"\xff", b"null", b"[" * 100_000):
        assert server.ask("POST", body, **MODERN_HEADERS).status == 400
    assert server.ask("POST", DISCOVER, **MODERN_HEADERS).status == 200
    server.ask("GET", Host="last.example")
    server.wait_for("Invalid Host header: last.example")
    assert "Traceback" not in server.stderr


def started_wrongly(place: Path, *options: str, **settings: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "symmetra_mcp", "serve", *options],
        env=environment(place, **settings),
        cwd=place,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == ""
    return done.returncode, done.stderr


@pytest.mark.slow
def test_a_port_that_is_taken_is_told_in_one_line(server: Served, tmp_path: Path) -> None:
    code, told = started_wrongly(tmp_path, "--http", "--port", str(server.port))
    assert code == 1
    assert told.splitlines() == [
        f"Error: port {server.port} of 127.0.0.1 can't be opened: Address already in use. "
        "Choose another by `--port`; 0 takes one that is free"
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "settings", "word"),
    [
        (("--host", "0.0.0.0"), {}, "must show a token"),
        (("--host", "::"), {}, "must show a token"),
        (("--host", "0"), {}, "must show a token"),
        (("--host", ""), {}, "is no address of this machine"),
        (("--host", "nowhere.invalid"), {}, "is no address of this machine"),
        (("--host", "0.0.0.0"), {"SYMMETRA_HTTP_TOKEN": TOKEN}, "has no name"),
        (("--host", "0.0.0.0"), {"SYMMETRA_HTTP_TOKEN": "short"}, "shorter than 32"),
        ((), {"SYMMETRA_HTTP_URL": "https://rules.example.com/mcp"}, "must show a token"),
        ((), {"SYMMETRA_HTTP_ALLOWED_HOSTS": "rules.example.com"}, "must show a token"),
        (("--tools", "no_such_tool"), {}, "no_such_tool"),
    ],
    ids=str,
)
def test_a_server_that_strangers_could_use_does_not_start(
    tmp_path: Path, options: tuple[str, ...], settings: dict[str, str], word: str
) -> None:
    (tmp_path / ".env").write_text(f"SYMMETRA_HTTP_TOKEN={TOKEN}\n")  # of whoever owns the folder
    code, told = started_wrongly(tmp_path, "--http", "--port", "0", *options, **settings)
    assert (code, len(told.splitlines())) == (1, 1)
    assert told.startswith("Error: ")
    assert word in told
    assert "short" not in told.replace("shorter", "")


@pytest.mark.parametrize("option", ["--host=127.0.0.1", "--port=0"])
def test_host_and_port_without_http_are_wrong_usage(option: str) -> None:
    done = CliRunner().invoke(cli, ["serve", option])
    assert (done.exit_code, "--host and --port go with --http" in done.output) == (2, True)


@pytest.mark.slow
def test_options_choose_the_tools_and_nothing_is_written_to_stdout(tmp_path: Path) -> None:
    with served(tmp_path, "--allow-writes", "--tools", "save_rule,health_check") as server:
        listed = server.modern("tools/list").message["result"]["tools"]
        assert sorted(tool["name"] for tool in listed) == ["health_check", "save_rule"]
        server.process.terminate()
        assert server.process.stdout is not None
        assert server.process.stdout.read() == b""
        assert server.process.wait(10) == 0
    assert [line for line in server.stderr.splitlines() if "serves MCP" not in line] == []
    with served(tmp_path, "--read-only") as server:
        session = server.greet()
        listed = server.legacy(request(1, "tools/list"), session).message["result"]["tools"]
        assert "reembed_all" not in [tool["name"] for tool in listed]


@pytest.mark.slow
def test_rules_are_there_before_anybody_asks(tmp_path: Path) -> None:
    (tmp_path / "AGENTS.md").write_text("# Money\n\n- Keep money in cents, never in floats.\n")
    (tmp_path / ".git").mkdir()
    with served(tmp_path) as server:
        for _ in range(200):
            database = tmp_path / "data" / "symmetra.db"
            if database.exists() and b"Keep money in cents" in b"".join(
                path.read_bytes() for path in database.parent.glob("symmetra.db*") if path.suffix != ".lock"
            ):
                break
            time.sleep(0.1)
        else:
            raise AssertionError("the project's rules were not read")
        assert server.process.poll() is None


@pytest.mark.slow
def test_what_the_program_prints_goes_to_stderr(tmp_path: Path) -> None:
    code = (
        "import os, threading; from symmetra_mcp.http.serving import run;"
        "threading.Timer(0.2, os.write, (1, b'written\\n')).start(); run('127.0.0.1', 0, {})"
    )
    with served(tmp_path, program=["-c", code]) as server:
        server.wait_for("written")
        server.process.terminate()
        assert server.process.stdout is not None
        assert server.process.stdout.read() == b""


# The end

WAYS = [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]


def seconds_to_end(server: Served, number: int) -> float:
    began = time.monotonic()
    server.process.send_signal(number)
    assert server.process.wait(20) == 0
    return time.monotonic() - began


@pytest.mark.parametrize("number", WAYS)
def test_open_streams_and_calls_end_with_the_server_in_order(tmp_path: Path, number: int) -> None:
    with served(tmp_path, program=[HANGING, str(tmp_path)]) as server:
        stream = server.open("GET", Mcp_Session_Id=server.greet())
        asked = request(1, "tools/call", name="gently", arguments={}, _meta=MODERN)
        headers = {"MCP_Protocol_Version": "2026-07-28", "Mcp_Method": "tools/call", "Mcp_Name": "gently"}
        waiting = server.send("POST", asked, **headers)
        listen = request(2, "subscriptions/listen", notifications={"toolsListChanged": True}, _meta=MODERN)
        changes = server.open("POST", listen, MCP_Protocol_Version="2026-07-28", Mcp_Method="subscriptions/listen")
        assert changes.status == 200
        wait_for(tmp_path / "hangs")
        assert seconds_to_end(server, number) < GONE_S
        assert stream.read() == b""  # a whole answer: a broken one would raise
        assert b"acknowledged" in changes.read()
        assert waiting.getresponse().status == 503
    assert (tmp_path / "cleaned up").exists()
    assert (tmp_path / "began").read_text() == "once\n"
    assert server.stderr.count("\n") == 1, server.stderr


@pytest.mark.slow
def test_a_server_that_was_started_to_outlive_its_terminal_does(tmp_path: Path) -> None:
    code = (
        "import signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN);"
        "from symmetra_mcp.http.serving import run; run('127.0.0.1', 0, {})"
    )
    with served(tmp_path, program=["-c", code]) as server:
        server.process.send_signal(signal.SIGHUP)
        assert server.modern("server/discover").status == 200
        assert seconds_to_end(server, signal.SIGTERM) < GONE_S
    with served(tmp_path) as server:
        assert seconds_to_end(server, signal.SIGHUP) < GONE_S


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("tool", ["in_a_thread", "in_the_loop"])
def test_a_tool_that_hangs_holds_no_server_back(tmp_path: Path, number: int, tool: str) -> None:
    with served(tmp_path, program=[HANGING, str(tmp_path)]) as server:
        session = server.greet()
        server.send("POST", call(1, tool), Mcp_Session_Id=session)
        wait_for(tmp_path / "hangs")
        assert seconds_to_end(server, number) < GONE_S
