"""`spaces`, `migrate` and `migrate --rollback` over a real store, with providers that the test can break."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest
from click.testing import CliRunner, Result

from symmetra_mcp.app import App
from symmetra_mcp.cli import cli
from symmetra_mcp.config import Settings, load_settings
from symmetra_mcp.errors import InputRefusedError, ProviderUnavailableError, QuotaExceededError
from symmetra_mcp.providers.base import Embeddings
from symmetra_mcp.providers.select import ProviderChoice
from symmetra_mcp.reembed import complete_space
from symmetra_mcp.stores.sqlite import SqliteStore
from symmetra_mcp.testing import FakeProvider
from symmetra_mcp.types import Rule


class Provider(FakeProvider):
    """Refuses a text that holds a certain word, and fails after some texts where it is told to."""

    fails_after: int | None = None

    async def embed_documents(self, texts: Sequence[str]) -> Embeddings:
        if self.fails_after is not None and len(self.embedded) >= self.fails_after:
            raise ProviderUnavailableError("the vendor is down", provider="fake")
        for index, text in enumerate(texts):
            if "forbidden" in text:
                raise InputRefusedError("fake refused a text", provider="fake", index=index)
        return await super().embed_documents(texts)


class Machine:
    """Rules embedded in the old space, and settings that choose the new one."""

    def __init__(self) -> None:
        self.old, self.new = FakeProvider("old"), Provider("new")

    def make_app(self, settings: Settings, *, usage_folder: Path | None = None) -> App:
        return App(settings, SqliteStore(settings.data_folder), ProviderChoice(self.new, others=(self.old,)))

    def run(self, *arguments: str, answer: str | None = None) -> Result:
        return CliRunner().invoke(cli, arguments, input=answer)

    def spaces(self) -> dict[str, dict[str, Any]]:
        return {each["space"]: each for each in json.loads(self.run("spaces", "list", "--json").stdout)}

    def write(self, *rules: Rule) -> None:
        async def write() -> None:
            store = SqliteStore(load_settings().data_folder)
            await store.open()
            await store.upsert_rules(rules)
            if await store.active_space() is None:
                await complete_space(store, self.old)
            await store.aclose()

        anyio.run(write)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()
    monkeypatch.setenv("SYMMETRA_STARTER_RULES", "0")
    monkeypatch.setattr("symmetra_mcp.app.make_app", made.make_app)
    made.write(*[Rule("shop", f"r{i}", f"Title {i}", f"Guidance {i}.") for i in range(100)])
    return made


def events(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_a_move_there_and_back_and_there_again(machine: Machine) -> None:
    moved = machine.run("migrate")
    assert moved.exit_code == 0
    assert moved.stdout.splitlines() == [
        "100 texts embedded in space fake/new@64, 0 of 100 missing. Searches compared in fake/old@64 before.",
        "Checked: rules are found by their own texts (12 asked).",
        "Back again: `symmetra-mcp migrate --rollback`.",
        "Migration complete.",
    ]
    assert moved.stderr.splitlines()[2:] == [
        "Batch 1 of 4: 32 of 100 texts embedded",
        "Batch 2 of 4: 64 of 100 texts embedded",
        "Batch 3 of 4: 96 of 100 texts embedded",
        "Batch 4 of 4: 100 of 100 texts embedded",
    ]
    assert machine.spaces()["fake/new@64"]["active"]
    machine.write(Rule("shop", "later", "Later", "Came after the move."))
    back = machine.run("migrate", "--rollback")
    assert back.exit_code == 0
    first, second, third = back.stdout.splitlines()
    assert first == "Searches compare in fake/old@64 again; they compared in fake/new@64 before."
    assert second == "1 text of 101 match by their words until they are embedded."
    assert third.startswith("Notice: the settings choose fake/new@64")
    assert machine.spaces()["fake/old@64"]["active"]
    again = events(machine.run("migrate", "--rollback", "--json"))
    assert again == [{"event": "rolled_back", "space": "fake/new@64", "switched_from": "fake/old@64", "missing": 1}]


def test_there_is_nothing_to_go_back_to_before_the_first_move(machine: Machine) -> None:
    result = machine.run("migrate", "--rollback")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "there is no space to go back to" in result.stderr


@pytest.mark.parametrize("options", [("--force",), ("--dry-run",), ("--batch-size", "5"), ("--test-only",)])
def test_going_back_goes_with_no_option_that_embeds(machine: Machine, options: tuple[str, ...]) -> None:
    assert machine.run("migrate", "--rollback", *options).exit_code == 2


def test_a_plan_tells_texts_batches_and_time(machine: Machine) -> None:
    result = machine.run("migrate", "--dry-run")
    assert result.stdout == (
        "100 of 100 texts would be embedded in space fake/new@64 (about 1 second); nothing was changed. Batches: 4.\n"
    )
    (*_, plan) = events(machine.run("migrate", "--dry-run", "--json"))
    assert (plan["event"], plan["missing"], plan["batches"], plan["dry_run"]) == ("plan", 100, 4, True)


def test_a_failure_in_the_middle_says_what_is_kept_and_the_next_run_goes_on(machine: Machine) -> None:
    machine.new.fails_after = 64
    failed = machine.run("migrate")
    assert (failed.exit_code, failed.stdout) == (1, "")
    assert "64 of 100 texts are embedded and kept: run the same again to go on" in failed.stderr
    assert failed.stderr.rstrip().endswith("Error: the vendor is down")
    assert machine.spaces()["fake/old@64"]["active"]
    told = events(machine.run("migrate", "--json"))
    assert [each["event"] for each in told] == ["connected", "failed"] or told[-1]["event"] == "failed"
    assert told[-1]["error"] == "the vendor is down"
    machine.new.fails_after = None
    (*_, done) = events(machine.run("migrate", "--json"))
    assert (done["event"], done["embedded"], done["switched_from"]) == ("done", 36, "fake/old@64")


def test_a_refused_text_is_named_and_the_rest_moves(machine: Machine) -> None:
    machine.write(Rule("shop", "bad", "Bad", "A forbidden word."))
    result = machine.run("migrate")
    assert result.exit_code == 0
    assert "Not embedded, found by its words: shop/bad: fake refused a text" in result.stdout.splitlines()
    assert result.stdout.splitlines()[-1] == "Migration complete."
    assert machine.spaces()["fake/new@64"] == {
        "space": "fake/new@64",
        "active": True,
        "texts": 101,
        "missing": 0,
        "refused": 1,
        "left_at": "",
    }


def test_spaces_are_listed_for_people(machine: Machine) -> None:
    machine.run("migrate")
    head, new, old = machine.run("spaces", "list").stdout.splitlines()
    assert head.split() == ["Space", "Searches", "Texts", "Missing", "Refused", "Left"]
    assert new.split() == ["fake/new@64", "compare", "here", "100", "0", "0"]
    assert old.split()[:4] == ["fake/old@64", "100", "0", "0"]
    assert old.endswith(" UTC")


def test_a_space_is_activated_by_a_part_of_its_name(machine: Machine) -> None:
    machine.run("migrate")
    result = machine.run("spaces", "activate", "old")
    assert result.exit_code == 0
    assert result.stdout.startswith("Searches compare in fake/old@64.\nNotice: the settings choose fake/new@64")
    assert machine.spaces()["fake/old@64"]["active"]


@pytest.mark.parametrize(
    ("name", "problem"), [("fake", "'fake' means several spaces"), ("openai", "no space 'openai'")]
)
def test_a_name_that_means_no_one_space_is_refused_with_those_there_are(
    machine: Machine, name: str, problem: str
) -> None:
    machine.run("migrate")
    for command in ("activate", "drop"):
        result = machine.run("spaces", command, name)
        assert result.exit_code == 1
        assert f"{problem}: fake/new@64, fake/old@64" in result.stderr


def test_dropping_asks_first_and_never_takes_what_searches_use(machine: Machine) -> None:
    machine.run("migrate")
    refused = machine.run("spaces", "drop", "new", "--yes")
    assert refused.exit_code == 1
    assert "activate another space first" in refused.stderr
    assert machine.run("spaces", "drop", "old", answer="n\n").exit_code == 1
    assert set(machine.spaces()) == {"fake/new@64", "fake/old@64"}
    done = machine.run("spaces", "drop", "old", answer="y\n")
    assert done.exit_code == 0
    assert "fake/old@64 is dropped: " in done.stdout
    assert set(machine.spaces()) == {"fake/new@64"}
    assert machine.run("migrate", "--rollback").exit_code == 1


def test_nothing_is_switched_while_a_run_embeds(machine: Machine) -> None:
    machine.run("migrate")

    async def run() -> tuple[Result, Result]:
        store = SqliteStore(load_settings().data_folder)
        await store.open()
        async with store.exclusive("embedding"):
            back = await anyio.to_thread.run_sync(machine.run, "migrate", "--rollback")
            other = await anyio.to_thread.run_sync(machine.run, "spaces", "activate", "old")
        await store.aclose()
        return back, other

    for result in anyio.run(run):
        assert result.exit_code == 1
        assert "wait for the run that embeds just now" in result.stderr


@pytest.mark.slow
def test_who_waits_for_another_run_says_for_whom(machine: Machine) -> None:
    async def run() -> Result:
        store = SqliteStore(load_settings().data_folder)
        await store.open()
        waiting: list[Result] = []
        async with anyio.create_task_group() as tasks, store.exclusive("embedding"):

            async def migrate() -> None:
                waiting.append(await anyio.to_thread.run_sync(machine.run, "migrate"))

            tasks.start_soon(migrate)
            await anyio.sleep(1.5)
        await store.aclose()
        return waiting[0]

    result = anyio.run(run)
    assert result.exit_code == 0
    assert "Waiting for another run: " in result.stderr


def test_a_terminal_gets_a_bar_and_the_result_in_lines(machine: Machine) -> None:
    result = CliRunner().invoke(cli, ["migrate"], env={"FORCE_COLOR": "1", "COLUMNS": "200"})
    assert result.exit_code == 0
    assert "Embedding, batch 4 of 4" in result.stderr
    assert "100/100" in result.stderr
    assert "Migration complete." in result.stdout


def test_an_account_without_money_stops_the_run_and_the_next_goes_on(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def empty(texts: Sequence[str]) -> Embeddings:
        if len(machine.new.embedded) >= 32:
            raise QuotaExceededError("fake: the account's money is used up", provider="fake")
        return await FakeProvider.embed_documents(machine.new, texts)

    with monkeypatch.context() as patched:
        patched.setattr(machine.new, "embed_documents", empty)
        stopped = machine.run("reembed")
        assert stopped.exit_code == 1
        assert "money is used up" in stopped.stderr
    assert machine.spaces()["fake/new@64"]["missing"] == 68
    done = machine.run("reembed")
    assert done.exit_code == 0
    assert done.stdout.startswith("68 texts embedded in space fake/new@64, 0 of 100 missing.")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no niceness there")
@pytest.mark.parametrize("command", ["migrate", "reembed"])
def test_a_command_that_embeds_lets_others_go_first(machine: Machine, command: str) -> None:
    program = (
        "import os, sys\n"
        "from symmetra_mcp.__main__ import main\n"
        f"sys.argv = ['symmetra-mcp', {command!r}]\n"
        "before = os.nice(0)\n"
        "try:\n"
        "    main()\n"
        "except SystemExit:\n"
        "    pass\n"
        "print(os.nice(0) - before)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "10"
