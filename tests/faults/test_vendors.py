"""A vendor that refuses, breaks off or lies: every search is answered, says what is wrong, and no spaces are mixed."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from loopback import Fault, LoopbackVendor
from mcp import Client
from product import Product, Server, call, make_project, play, search
from vendors import (
    CAUSES,
    DOWN,
    HARMLESS,
    LASTING,
    LOCAL,
    QUESTION,
    RULE,
    UNTOLD_BY_COHERE,
    VENDORS,
    Filled,
    VendorName,
    addresses,
    becomes,
    cached_vectors_are_right,
    fill,
    keys_of,
    requests_to,
    shorten,
    space_of,
    stored_vectors_are_right,
)

from symmetra_mcp.probes import probe_passages

REEMBED = "symmetra-mcp reembed"
PRICE_USD_PER_MILLION = 100.0

IMPORTS = """
import importlib.abc, os, pathlib, sys, time

NAMES = {"openai", "cohere", "httpx", "torch", "sentence_transformers"}
log, answered = (pathlib.Path(os.environ[name]) for name in ("IMPORTS", "ANSWERED"))

class Watch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name in NAMES:
            with log.open("a") as file:
                file.write(f"{name}\\n")
            end = time.monotonic() + 5
            while not answered.exists():
                if time.monotonic() > end:
                    answered.with_name("in vain").touch()
                    return None
                time.sleep(0.01)
        return None

sys.meta_path.insert(0, Watch())
"""
"""A `sitecustomize` that notes which libraries are imported, and lets none be until the client has its answer."""


@pytest.fixture(scope="module")
def vendor() -> Iterator[LoopbackVendor]:
    with LoopbackVendor(fault_retry_after_s=0.05) as vendor:
        yield vendor


@pytest.fixture(autouse=True)
def _sound(vendor: LoopbackVendor) -> Iterator[None]:
    vendor.reset()
    yield
    vendor.reset()


@pytest.fixture(scope="module")
def _filled(
    python: str, vendor: LoopbackVendor, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[VendorName], Filled]:
    """Makes a folder for a vendor once."""
    made: dict[VendorName, Filled] = {}

    def make(name: VendorName) -> Filled:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            product = Product(python, folder / "data", folder, folder)
            made[name] = fill(product, folder / "mint", **addresses(vendor), **keys_of(name))
        return made[name]

    return make


@pytest.fixture
def filled(
    product: Product, vendor: LoopbackVendor, _filled: Callable[[VendorName], Filled]
) -> Callable[[VendorName], Path]:
    """Gives the product a copy of a folder whose rules are embedded in a vendor's space; returns the project."""

    def take(name: VendorName) -> Path:
        source = _filled(name)
        shutil.copytree(source.data_dir, product.data_dir)
        vendor.reset()
        product.environment.update(addresses(vendor))
        return source.project

    return take


def told(text: str, cause: str) -> None:
    assert re.search(cause, text), text


def ended_well(server: Server, vendor: LoopbackVendor) -> None:
    assert server.exit_code == 0
    assert "Traceback" not in server.stderr
    assert vendor.stats.stolen == []


async def stand_in_answers(client: Client, query: str, cause: str) -> None:
    answer = await search(client, query)
    assert answer["space"] == LOCAL
    assert answer["mode"] == "hybrid"
    assert answer["hits"][0]["guidance"] == RULE
    assert all("similarity" in hit for hit in answer["hits"])
    told(answer["degraded"], cause)


async def vendor_answers(client: Client, query: str, space: str) -> None:
    answer = await search(client, query)
    assert answer["space"] == space
    assert "degraded" not in answer
    assert answer["hits"][0]["guidance"] == RULE


async def everything_says(client: Client, cause: str) -> None:
    """Each of the four tools, while the vendor does not answer."""
    await stand_in_answers(client, f"{QUESTION} now", cause)
    for input_type in ("document", "query"):
        is_error, text, _ = await call(client, "embed_text", text=f"{QUESTION}!", input_type=input_type)
        assert is_error
        told(text, cause)
    is_error, text, _ = await call(client, "reembed_all", force=True)
    assert is_error
    told(text, cause)
    _, text, health = await call(client, "health_check")
    assert health["status"] == "degraded"
    assert health["components"]["embedding"]["status"] == "unhealthy"
    told(health["components"]["embedding"]["problem"], cause)
    told(text, cause)
    assert health["components"]["rules"]["details"]["backup_space"] == LOCAL


async def everything_works(client: Client, space: str) -> None:
    await vendor_answers(client, f"{QUESTION}?", space)
    is_error, text, answer = await call(client, "reembed_all", force=True)
    assert not is_error, text
    assert (answer["missing"], answer["embedded"]) == (0, answer["texts"])
    _, _, health = await call(client, "health_check")
    assert health["status"] == "healthy"


def outage_is_answered_around(
    product: Product, vendor: LoopbackVendor, name: VendorName, project: Path, fault: Fault
) -> None:
    server, space = product.server(project, **keys_of(name)), space_of(vendor, name)
    count = stored_vectors_are_right(product, vendor, name)

    async def run() -> None:
        async with server.client() as client:
            await vendor_answers(client, QUESTION, space)
            with vendor.failing(fault):
                await everything_says(client, CAUSES[fault])
                assert stored_vectors_are_right(product, vendor, name) == count
            if fault in LASTING:
                await call(client, "health_check")

            async def is_well() -> bool:
                return "degraded" not in await search(client, f"{QUESTION} again")

            await becomes(is_well, "the vendor is asked again")
            await everything_works(client, space)

    play(run)
    ended_well(server, vendor)
    assert stored_vectors_are_right(product, vendor, name) == count
    asked = [f"{QUESTION}{end}" for end in ("", " again", "?")]
    assert cached_vectors_are_right(product, name, asked) == len(asked)


@pytest.mark.slow
def test_a_vendor_that_fails_is_told_and_answered_around_until_it_is_back(
    product: Product, vendor: LoopbackVendor, filled: Callable[[VendorName], Path]
) -> None:
    shorten(product)
    outage_is_answered_around(product, vendor, "openai", filled("openai"), Fault.SERVER_ERROR)


@pytest.mark.slow
@pytest.mark.parametrize("fault", [fault for fault in Fault if fault not in HARMLESS], ids=str)
@pytest.mark.parametrize("name", VENDORS)
def test_every_fault_is_told_and_answered_around_until_it_ends(
    product: Product, vendor: LoopbackVendor, filled: Callable[[VendorName], Path], name: VendorName, fault: Fault
) -> None:
    if name == "cohere" and fault in UNTOLD_BY_COHERE:
        pytest.skip("its answers name neither a row's index nor the model")
    shorten(product)
    outage_is_answered_around(product, vendor, name, filled(name), fault)


@pytest.mark.slow
@pytest.mark.parametrize("name", VENDORS)
def test_rows_in_another_order_or_form_are_read_rightly(
    product: Product, vendor: LoopbackVendor, filled: Callable[[VendorName], Path], name: VendorName
) -> None:
    project, space = filled(name), space_of(vendor, name)
    server = product.server(project, **keys_of(name))
    faults = [fault for fault in HARMLESS if name == "openai" or fault not in UNTOLD_BY_COHERE]

    async def run() -> None:
        async with server.client() as client:
            for fault in faults:
                with vendor.failing(fault):
                    await everything_works(client, space)

    play(run)
    ended_well(server, vendor)
    assert {fault.value for fault in faults} == set(vendor.stats.by_fault)
    assert stored_vectors_are_right(product, vendor, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", VENDORS)
def test_a_vendor_that_is_gone_is_told_and_answered_around(
    product: Product, vendor: LoopbackVendor, filled: Callable[[VendorName], Path], name: VendorName
) -> None:
    project, space = filled(name), space_of(vendor, name)
    shorten(product)
    server = product.server(project, **keys_of(name))

    async def run() -> None:
        async with server.client() as client:
            vendor.down = True
            await everything_says(client, "can't be reached")
            vendor.down = False
            await call(client, "health_check")
            await everything_works(client, space)

    play(run)
    ended_well(server, vendor)
    assert stored_vectors_are_right(product, vendor, name)


@pytest.mark.slow
def test_searches_alone_find_out_that_a_vendor_is_back(
    product: Product, vendor: LoopbackVendor, filled: Callable[[VendorName], Path]
) -> None:
    project, space = filled("openai"), space_of(vendor, "openai")
    server = product.server(project, **keys_of("openai"))

    async def run() -> None:
        async with server.client() as client:
            with vendor.failing(Fault.UNAVAILABLE):
                for number in range(5):
                    await stand_in_answers(client, f"{QUESTION} {number}", CAUSES[Fault.UNAVAILABLE])
                left_alone = vendor.stats.requests
                await stand_in_answers(client, f"{QUESTION} 5", "asked again in")
                assert vendor.stats.requests == left_alone

            async def is_well() -> bool:
                return "degraded" not in await search(client, f"{QUESTION} again")

            await becomes(is_well, "the vendor is asked again")
            await vendor_answers(client, f"{QUESTION}?", space)

    play(run)
    ended_well(server, vendor)


@pytest.mark.slow
def test_a_run_tells_of_an_outage_before_clients_give_up_and_goes_on_after_it(
    product: Product, vendor: LoopbackVendor, filled: Callable[[VendorName], Path]
) -> None:
    project, space = filled("openai"), space_of(vendor, "openai")
    server = product.server(project, **keys_of("openai"))

    async def run() -> None:
        async with server.client() as client:  # waits for an answer as long as clients do: a minute
            with vendor.failing(Fault.SERVER_ERROR):
                for _ in range(2):
                    is_error, text, _ = await call(client, "reembed_all", force=True)
                    assert is_error
                    told(text, f"{DOWN}.*asked again in")
            is_error, text, _ = await call(client, "reembed_all", force=True)
            assert not is_error, text
            await everything_works(client, space)

    play(run)
    ended_well(server, vendor)
    assert stored_vectors_are_right(product, vendor, "openai")


@pytest.mark.slow
@pytest.mark.parametrize("fault", [Fault.SERVER_ERROR, Fault.HANG, Fault.NAN, Fault.WRONG_KEY], ids=str)
@pytest.mark.parametrize("name", VENDORS)
def test_the_command_line_tells_and_answers_around_a_fault(
    product: Product, vendor: LoopbackVendor, filled: Callable[[VendorName], Path], name: VendorName, fault: Fault
) -> None:
    project = filled(name)
    shorten(product)
    product.environment.update(keys_of(name))
    count = stored_vectors_are_right(product, vendor, name)
    with vendor.failing(fault):
        answer = product.json("search", f"{QUESTION}?", cwd=project)
        health = product.json("health", cwd=project)
        failures = [product.run(*command, cwd=project) for command in (("embed", RULE), ("reembed", "--force"))]
    assert answer["space"] == LOCAL
    assert answer["hits"][0]["guidance"] == RULE
    told(answer["degraded"], CAUSES[fault])
    told(health["components"]["embedding"]["problem"], CAUSES[fault])
    for failure in failures:
        assert failure.returncode == 1
        assert "Traceback" not in failure.stderr
        told(failure.stderr, CAUSES[fault])
    assert stored_vectors_are_right(product, vendor, name) == count
    assert product.json("search", f"{QUESTION}?", cwd=project)["space"] == space_of(vendor, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", VENDORS)
def test_what_a_first_filling_could_not_embed_is_embedded_later_and_rightly(
    product: Product, vendor: LoopbackVendor, tmp_path: Path, name: VendorName
) -> None:
    shorten(product)
    product.environment.update({**addresses(vendor), **keys_of(name)})
    faults = [fault for fault in CAUSES if fault not in LASTING]
    for fault in faults:
        if fault not in (Fault.HANG, Fault.STALL) and not (name == "cohere" and fault in UNTOLD_BY_COHERE):
            vendor.inject(fault, times=None, probability=0.03)

    async def run() -> None:
        async with product.server(make_project(tmp_path / "mint", RULE)).client() as client:

            async def is_complete() -> bool:
                await call(client, "reembed_all")
                _, _, health = await call(client, "health_check")
                return bool(health["components"]["rules"]["details"].get("texts_not_embedded") == 0)

            await becomes(is_complete, "every rule is embedded", 60)

    play(run)
    assert sum(vendor.stats.by_fault.values()) > 0
    assert stored_vectors_are_right(product, vendor, name) > len(probe_passages())


def no_query_went_out(
    product: Product, vendor: LoopbackVendor, project: Path, *, degraded: str, notice: str = "", **environment: str
) -> None:
    """Searches by both doors stay in the local space, and nothing at all is sent."""
    vendor.reset()

    async def run() -> None:
        async with product.server(project, **environment).client() as client:
            for number in range(3):
                answer = await search(client, f"{QUESTION} {number}")
                stays_local(answer, degraded)
            _, text, health = await call(client, "health_check")
            assert notice in " ".join(health.get("notices", []))
            assert REEMBED in text

    play(run)
    done = product.run("search", f"{QUESTION} 4", "--json", cwd=project, **environment)
    stays_local(json.loads(done.stdout), degraded)
    assert notice in done.stderr
    assert notice in " ".join(product.json("health", cwd=project, **environment).get("notices", []))
    assert vendor.stats.requests == 0


def stays_local(answer: dict[str, Any], degraded: str) -> None:
    assert answer["space"] == LOCAL
    assert answer["hits"][0]["guidance"] == RULE
    if degraded:
        assert degraded in answer["degraded"]
        assert REEMBED in answer["degraded"]
    else:
        assert "degraded" not in answer


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["auto", "cohere"])
def test_another_vendors_key_switches_nothing_until_the_rules_are_moved(
    product: Product, vendor: LoopbackVendor, filled: Callable[[VendorName], Path], backend: str
) -> None:
    project = filled("openai")
    # Without OpenAI's address too: a server of one's own may ask for no key.
    cohere = {"SYMMETRA_EMBEDDING_BACKEND": backend, "OPENAI_BASE_URL": "", **keys_of("cohere")}
    why = "`OPENAI_API_KEY` is not set" if backend == "auto" else "`SYMMETRA_EMBEDDING_BACKEND` is 'cohere'"
    no_query_went_out(product, vendor, project, degraded=why, notice=REEMBED, **cohere)

    moved = product.json("reembed", cwd=project, **cohere)

    assert moved["switched_from"] == space_of(vendor, "openai")
    assert (moved["embedded"], moved["missing"]) == (moved["texts"], 0)
    assert requests_to(vendor, "openai") == 0
    vendor.reset()
    answer = product.json("search", QUESTION, cwd=project, **cohere)
    assert answer["space"] == space_of(vendor, "cohere")
    assert "degraded" not in answer
    assert [request.body["input_type"] for request in vendor.stats.recent] == ["search_query"]
    assert stored_vectors_are_right(product, vendor, "cohere")

    vendor.reset()
    back = product.json("reembed", cwd=project, **keys_of("openai"))
    assert (back.get("embedded", 0), back["switched_from"]) == (0, space_of(vendor, "cohere"))
    assert vendor.stats.requests == 0
    assert product.json("search", QUESTION, cwd=project, **keys_of("openai"))["space"] == space_of(vendor, "openai")
    assert stored_vectors_are_right(product, vendor, "openai")


@pytest.mark.slow
def test_rules_stay_in_their_vendors_space_while_both_keys_are_set(
    product: Product, vendor: LoopbackVendor, filled: Callable[[VendorName], Path]
) -> None:
    project = filled("cohere")
    done = product.run("search", f"{QUESTION}?", "--json", cwd=project, **keys_of("openai", "cohere"))
    answer = json.loads(done.stdout)
    assert answer["space"] == space_of(vendor, "cohere")
    assert "degraded" not in answer
    assert f"`{REEMBED}` moves every rule to {space_of(vendor, 'openai')}" in done.stderr
    assert (requests_to(vendor, "openai"), requests_to(vendor, "cohere")) == (0, 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", VENDORS)
def test_a_key_that_appears_sends_nothing_and_names_the_command(
    product: Product, vendor: LoopbackVendor, tmp_path: Path, name: VendorName
) -> None:
    product.environment.update(addresses(vendor))
    project = fill(product, tmp_path / "mint", backup=False).project
    no_query_went_out(product, vendor, project, degraded="", notice=f"`{REEMBED}` moves", **keys_of(name))


@pytest.mark.slow
def test_the_local_backend_sends_nothing_though_rules_are_in_a_vendors_space(
    product: Product, vendor: LoopbackVendor, filled: Callable[[VendorName], Path]
) -> None:
    project = filled("openai")
    local = {"SYMMETRA_EMBEDDING_BACKEND": "local", **keys_of("openai", "cohere")}
    why = "`SYMMETRA_EMBEDDING_BACKEND` is 'local'"
    no_query_went_out(product, vendor, project, degraded=why, notice=REEMBED, **local)


@pytest.mark.slow
def test_words_alone_answer_where_no_stand_in_is_kept(product: Product, vendor: LoopbackVendor, tmp_path: Path) -> None:
    product.environment.update({**addresses(vendor), **keys_of("openai"), "SYMMETRA_EMBEDDING_BACKUP": "0"})
    project = fill(product, tmp_path / "mint", backup=False).project
    spaces = {space for (space,) in product.rows("SELECT DISTINCT space_id FROM vectors")}
    assert spaces == {space_of(vendor, "openai")}

    async def run() -> None:
        async with product.server(project).client() as client:
            with vendor.failing(Fault.UNAVAILABLE):
                answer = await search(client, f"{QUESTION}?")
            assert answer["mode"] == "words"
            assert "space" not in answer
            assert answer["hits"][0]["guidance"] == RULE
            assert not any("similarity" in hit for hit in answer["hits"])
            told(answer["degraded"], CAUSES[Fault.UNAVAILABLE])
            await vendor_answers(client, f"{QUESTION}!", space_of(vendor, "openai"))

    play(run)


def spent_usd(product: Product, project: Path) -> float:
    return float(product.json("usage", cwd=project)["spent_usd"])


@pytest.mark.slow
def test_a_spending_limit_stops_a_run_before_it_is_passed_and_searches_go_on(
    product: Product, vendor: LoopbackVendor, filled: Callable[[VendorName], Path]
) -> None:
    project = filled("openai")
    product.environment.update({**keys_of("openai"), "SYMMETRA_EMBEDDING_PRICE": str(PRICE_USD_PER_MILLION)})
    assert product.json("reembed", "--force", cwd=project)["tokens"] == vendor.stats.tokens
    whole_usd = vendor.stats.tokens * PRICE_USD_PER_MILLION / 1e6
    assert spent_usd(product, project) == pytest.approx(whole_usd)
    vendor.reset()
    limit_usd = whole_usd * 1.5

    product.environment["SYMMETRA_SPENDING_LIMIT"] = str(limit_usd)
    stopped = product.run("reembed", "--force", cwd=project)

    assert stopped.returncode == 1
    told(stopped.stderr, "the spending limit stops this request")
    assert whole_usd + vendor.stats.tokens * PRICE_USD_PER_MILLION / 1e6 <= limit_usd
    assert spent_usd(product, project) <= limit_usd
    assert stored_vectors_are_right(product, vendor, "openai")

    vendor.reset()
    product.environment["SYMMETRA_SPENDING_LIMIT"] = str(spent_usd(product, project))
    server = product.server(project)

    async def run() -> None:
        async with server.client() as client:
            await everything_says(client, "the spending limit stops this request")

    play(run)
    ended_well(server, vendor)
    assert vendor.stats.requests == 0


class Watched:
    """Processes whose imports are noted, and wait for the client to have its answer."""

    def __init__(self, product: Product) -> None:
        folder = product.notes / "watch"
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(IMPORTS)
        self._log, self.answered, self.in_vain = (folder / name for name in ("imports", "answered", "in vain"))
        product.environment.update(PYTHONPATH=str(folder), IMPORTS=str(self._log), ANSWERED=str(self.answered))

    @property
    def imports(self) -> set[str]:
        return set(self._log.read_text().split()) if self._log.exists() else set()


def tools_are_listed_first(product: Product, vendor: LoopbackVendor, project: Path, name: VendorName) -> None:
    watched = Watched(product)
    server = product.server(project, **keys_of(name))

    async def run() -> None:
        async with server.client() as client:
            assert watched.imports == set()
            assert len((await client.list_tools()).tools) == 4
            assert not watched.in_vain.exists()
            watched.answered.touch()
            await vendor_answers(client, QUESTION, space_of(vendor, name))

    play(run)
    ended_well(server, vendor)
    assert name in watched.imports
    assert not watched.imports & ({"openai", "cohere", "torch", "sentence_transformers"} - {name})


@pytest.mark.slow
def test_tools_are_listed_before_a_vendors_library_is_imported(
    product: Product, vendor: LoopbackVendor, filled: Callable[[VendorName], Path]
) -> None:
    tools_are_listed_first(product, vendor, filled("openai"), "openai")


@pytest.mark.slow
def test_tools_are_listed_before_coheres_library_is_imported(
    product: Product, vendor: LoopbackVendor, filled: Callable[[VendorName], Path]
) -> None:
    tools_are_listed_first(product, vendor, filled("cohere"), "cohere")


@pytest.mark.slow
def test_the_local_backend_imports_no_vendors_library(product: Product, vendor: LoopbackVendor, tmp_path: Path) -> None:
    watched = Watched(product)
    watched.answered.touch()
    product.environment.update(
        {"SYMMETRA_EMBEDDING_BACKEND": "local", **addresses(vendor), **keys_of("openai", "cohere")}
    )
    project = make_project(tmp_path / "mint", RULE)
    server = product.server(project)

    async def run() -> None:
        async with server.client() as client:
            await vendor_answers(client, QUESTION, LOCAL)
            for tool, arguments in (("embed_text", {"text": RULE}), ("health_check", {}), ("reembed_all", {})):
                is_error, text, _ = await call(client, tool, **arguments)
                assert not is_error, text

    play(run)
    ended_well(server, vendor)
    for command in (("search", QUESTION), ("embed", RULE), ("health",), ("reembed",), ("usage",)):
        product.json(*command, cwd=project)
    assert watched.imports == set()
    assert vendor.stats.requests == 0
