"""No part of a key in anything that the product writes, whatever the vendor answers, with everything logged."""

from __future__ import annotations

import base64
import json
import subprocess
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote, quote_plus

import pytest
from loopback import Fault, LoopbackVendor
from product import Product, make_project
from vendors import (
    KEY_VARIABLES,
    QUESTION,
    RULE,
    VENDORS,
    VendorName,
    addresses,
    shorten,
)

HEAD, TAIL = "Zq7-Xk2w", "Jv9_"
"""What OpenAI's 401 shows of a key: its first eight and its last four characters."""
CANARIES = {
    "plain": f"{HEAD}Canary4Plugh{TAIL}",
    "with a line end": f"{HEAD}Canary4Plugh{TAIL}\n",
    "of 5 kB": HEAD + "Canary4Plugh" * 420 + TAIL,
    "with signs": f"{HEAD}%2FCan/ary+4=Plugh%{TAIL}",
}
SETTINGS = {
    "SYMMETRA_LOG_LEVEL": "debug",
    "OPENAI_LOG": "debug",
    "SYMMETRA_EMBEDDING_TIMEOUT": "1",
    "SYMMETRA_EMBEDDING_INPUTS_PER_MINUTE": "1000000",  # ten runs in a minute are more than Cohere takes
}
FAULTS: list[Fault | None] = [None, *Fault]
PART = 10
"""Faults that one server lives through."""
PARTS = [FAULTS[start : start + PART] for start in range(0, len(FAULTS), PART)]
COMMANDS = (("search", QUESTION), ("embed", RULE), ("health",), ("reembed", "--force"), ("usage",))


def forms_of(canary: str) -> set[bytes]:
    """A key and its telling parts, as they are and as headers, addresses and dumps would hold them."""
    key = canary.strip()
    parts = {key, HEAD, TAIL, key[8:40], quote(key, safe=""), quote_plus(key), json.dumps(key)[1:-1]}
    found = {part.encode() for part in parts}
    for text in (key, HEAD):
        found |= {text.encode().hex().encode(), text.encode("utf-16-le")}
        found |= set(_base64_of(text.encode()))
    return found


def _base64_of(data: bytes) -> Iterator[bytes]:
    """The characters of base64 that a text decides, wherever it stands in what is encoded."""
    for before in range(3):
        whole = (before + len(data)) // 3 * 3
        encoded = base64.b64encode((b"\0" * before + data)[:whole])
        for table in (encoded, encoded.replace(b"+", b"-").replace(b"/", b"_")):
            yield table[4 if before else 0 :]


class Talk:
    """A server over plain pipes, all of whose output is kept."""

    def __init__(self, product: Product, project: Path, **environment: str) -> None:
        self._process = product.start(cwd=project, stdin=subprocess.PIPE, **environment)
        self._number = 0
        self.stdout: list[str] = []
        self.stderr = ""
        self._drain = threading.Thread(target=self._read_stderr)
        self._drain.start()
        hello = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
        self.ask("initialize", hello)
        self._send({"method": "notifications/initialized"})

    def ask(self, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        self._number += 1
        self._send({"id": self._number, "method": method, "params": parameters})
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.stdout.append(line)
            message: dict[str, Any] = json.loads(line)
            if message.get("id") == self._number:
                return message
        raise AssertionError(f"the server closed its output: {self.stderr[-2000:]}")

    def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        result: dict[str, Any] = self.ask("tools/call", {"name": tool, "arguments": arguments})["result"]
        return result

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close its input, and keep the rest of what it says."""
        if kind is not None:
            self._process.kill()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self.stdout.append(self._process.stdout.read())
        self._drain.join()
        self._process.stdout.close()
        assert self._process.wait(20) == 0 or kind is not None

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        self._process.stdin.flush()

    def _read_stderr(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as stderr:
            self.stderr = stderr.read()


@pytest.fixture(scope="module")
def vendor() -> Iterator[LoopbackVendor]:
    with LoopbackVendor(fault_retry_after_s=0.05, cohere_inputs_per_minute=None) as vendor:
        yield vendor


@pytest.fixture(autouse=True)
def _sound(vendor: LoopbackVendor, product: Product) -> Iterator[None]:
    vendor.reset()
    shorten(product)
    product.environment.update({**addresses(vendor), **SETTINGS})
    yield
    vendor.reset()


def files_in(*folders: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()}


def holds_none_of(forms: Iterable[bytes], written: dict[str, bytes]) -> None:
    found = {(name, form[:40]) for form in forms for name, content in written.items() if form in content}
    assert found == set()


def every_door_is_tried(talk: Talk, number: int) -> None:
    """Each tool once; what it answers is checked elsewhere."""
    assert not talk.call("search_rules", query=f"{QUESTION} {number}").get("isError")
    talk.call("embed_text", text=f"{RULE} {number}", include_vector=True)
    talk.call("reembed_all", force=True)
    talk.call("health_check", thorough=True)


def servers_say_nothing_of_the_key(
    product: Product,
    vendor: LoopbackVendor,
    project: Path,
    name: VendorName,
    canary: str,
    faults: Sequence[Fault | None],
) -> None:
    forms = forms_of(canary)
    with Talk(product, project, **{KEY_VARIABLES[name]: canary}) as talk:
        for number, fault in enumerate(faults):
            if fault is not None:
                vendor.inject(fault, times=None)
            every_door_is_tried(talk, number)
            vendor.clear_faults()
        living = files_in(product.data_dir, product.work, project)
    assert vendor.stats.requests > 0
    assert all(request.headers["authorization"] == f"Bearer {canary.strip()}" for request in vendor.stats.recent)
    assert any(path.endswith("symmetra.db-wal") for path in living)
    holds_none_of(forms, living)
    holds_none_of(forms, files_in(product.data_dir, product.work, project))
    holds_none_of(forms, {"stdout": "".join(talk.stdout).encode(), "stderr": talk.stderr.encode()})
    assert vendor.stats.stolen == []


@pytest.mark.slow
def test_nothing_that_a_server_writes_holds_a_part_of_the_key(
    product: Product, vendor: LoopbackVendor, tmp_path: Path
) -> None:
    faults = [None, Fault.ECHO_KEY, Fault.WRONG_KEY]
    project = make_project(tmp_path / "mint", RULE)
    servers_say_nothing_of_the_key(product, vendor, project, "openai", CANARIES["with a line end"], faults)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(len(PARTS)))
@pytest.mark.parametrize("kind", list(CANARIES))
@pytest.mark.parametrize("name", VENDORS)
def test_nothing_that_a_server_writes_under_any_fault_holds_a_part_of_any_key(
    product: Product, vendor: LoopbackVendor, tmp_path: Path, name: VendorName, kind: str, part: int
) -> None:
    project = make_project(tmp_path / "mint", RULE)
    servers_say_nothing_of_the_key(product, vendor, project, name, CANARIES[kind], PARTS[part])


@pytest.mark.slow
@pytest.mark.parametrize("fault", list(Fault), ids=str)
@pytest.mark.parametrize("name", VENDORS)
def test_nothing_that_a_command_writes_holds_a_part_of_the_key(
    product: Product, vendor: LoopbackVendor, tmp_path: Path, name: VendorName, fault: Fault
) -> None:
    project = make_project(tmp_path / "mint", RULE)
    canary = list(CANARIES.values())[list(Fault).index(fault) % len(CANARIES)]
    vendor.inject(fault, times=None)
    for command in COMMANDS:
        done = product.run(*command, "--json", cwd=project, **{KEY_VARIABLES[name]: canary})
        assert "Traceback" not in done.stderr
        assert done.stdout or done.returncode == 1
        holds_none_of(forms_of(canary), {"stdout": done.stdout.encode(), "stderr": done.stderr.encode()})
    assert vendor.stats.by_fault[fault.value] > 0
    holds_none_of(forms_of(canary), files_in(product.data_dir, product.work, project))
    assert vendor.stats.stolen == []


@pytest.mark.slow
@pytest.mark.parametrize("broken", [" ", "\n", "\t", '"', "\u00e9", "\u2019", "\x7f"], ids=ascii)
@pytest.mark.parametrize("name", VENDORS)
def test_a_key_that_can_be_none_is_refused_without_a_part_of_it(
    product: Product, vendor: LoopbackVendor, name: VendorName, broken: str
) -> None:
    canary = f"{HEAD}Canary{broken}4Plugh{TAIL}"
    for command in ((), ("search", QUESTION), ("health",)):
        done = product.run(*command, **{KEY_VARIABLES[name]: canary})
        assert done.returncode == 1
        assert KEY_VARIABLES[name] in done.stderr
        holds_none_of(forms_of(canary), {"stdout": done.stdout.encode(), "stderr": done.stderr.encode()})
    assert vendor.stats.requests == 0


def test_a_part_of_a_key_is_found_in_whatever_form_it_is_written() -> None:
    key = CANARIES["with signs"]
    for written in (
        key,
        quote(key, safe=""),
        base64.b64encode(f"Bearer {key}".encode()).decode(),
        base64.b64encode(f":{key}".encode()).decode(),
        f"Incorrect API key provided: {HEAD}****",
        f"ends in {TAIL}.",
    ):
        with pytest.raises(AssertionError):
            holds_none_of(forms_of(key), {"log": written.encode()})
