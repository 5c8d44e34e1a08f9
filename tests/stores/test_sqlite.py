"""The embedded store among other processes, and when they die or the disk fails."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest

import symmetra_mcp
from symmetra_mcp.errors import StoreUnavailableError
from symmetra_mcp.passages import passages
from symmetra_mcp.reembed import complete_space
from symmetra_mcp.stores import sqlite, sqlite_file
from symmetra_mcp.stores.base import MatchQuery
from symmetra_mcp.stores.sqlite import FILE_NAME, SqliteStore
from symmetra_mcp.testing import FakeProvider
from symmetra_mcp.types import Rule, RuleKey

pytestmark = pytest.mark.anyio

PACKAGE_PARENT = Path(symmetra_mcp.__file__).resolve().parents[1]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data"


def rule(rule_id: str, guidance: str = "Do the right thing.", **fields: Any) -> Rule:
    return Rule(
        **{"project_id": "shop", "rule_id": rule_id, "title": rule_id.capitalize(), "guidance": guidance} | fields
    )


async def opened(folder: Path) -> SqliteStore:
    store = SqliteStore(folder)
    await store.open()
    return store


async def written(folder: Path, *rules: Rule) -> Path:
    """A closed store of these rules; its file."""
    store = await opened(folder)
    await store.upsert_rules(rules)
    await store.aclose()
    return store.path


async def found(store: SqliteStore, text: str) -> list[str]:
    return [candidate.rule.rule_id for candidate in (await store.match(MatchQuery(text, limit=50))).candidates]


def set_aside(folder: Path) -> list[Path]:
    return sorted(folder.glob("symmetra.damaged-*.db"))


def start(script: str, *args: object) -> subprocess.Popen[str]:
    """A Python process that runs `script`; `start_all` lets several begin at one moment."""
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, args)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(PACKAGE_PARENT)},
    )


def run_together(script: str, count: int, *args: object) -> list[str]:
    """Run `script` in several processes that begin when all of them stand ready; what each printed."""
    processes = [start(script, *args, number) for number in range(count)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", process.communicate()[1]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [process.communicate(timeout=100) for process in processes]
    assert [process.returncode for process in processes] == [0] * count, [error for _, error in answers]
    return [output for output, _ in answers]


# Several stores on one file


async def test_stores_of_one_folder_see_each_others_changes(folder: Path) -> None:
    one, other = await opened(folder), await opened(folder)
    provider = FakeProvider()
    assert await found(other, "anything") == []
    await one.upsert_rules([rule("pin", "Pin dependencies.")])
    assert await found(other, "dependencies") == ["pin"]
    await other.upsert_rules([rule("pin", "Write docstrings.")])
    assert await found(one, "dependencies") == []
    assert await found(one, "docstrings") == ["pin"]
    await complete_space(one, provider)
    vector = (await provider.embed_query("docstrings")).vectors[0]
    matches = await other.match(MatchQuery("docstrings", vector, provider.space))
    assert matches.unembedded == 0
    await one.delete_rules([RuleKey("shop", "pin")])
    assert await found(other, "docstrings") == []
    await one.aclose()
    await other.aclose()


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Grows by one whenever an index is built."""
    counted: list[None] = []
    build = sqlite.build_index

    def counting(*arguments: Any) -> Any:
        counted.append(None)
        return build(*arguments)

    monkeypatch.setattr(sqlite, "build_index", counting)
    return counted


async def test_the_index_is_built_once_for_each_state_of_the_rules(folder: Path, builds: list[None]) -> None:
    one, other = await opened(folder), await opened(folder)
    await one.upsert_rules([rule("pin", "Pin dependencies.")])
    for _ in range(3):
        assert await found(one, "dependencies") == ["pin"]
    assert len(builds) == 1
    await other.upsert_rules([rule("new", "Update dependencies.")])
    for _ in range(3):
        assert sorted(await found(one, "dependencies")) == ["new", "pin"]
    assert len(builds) == 2
    await one.aclose()
    await other.aclose()


async def test_changes_that_no_search_can_see_build_no_index(folder: Path, builds: list[None]) -> None:
    one, other = await opened(folder), await opened(folder)
    provider = FakeProvider()
    await one.upsert_rules([rule("pin")])
    await complete_space(one, provider)
    await found(one, "thing")
    await other.set_note("files", "digest")
    await other.delete_rules([RuleKey("shop", "never was")])
    await other.upsert_rules([])
    await other.activate_space(provider.space)
    await other.put_vectors(["0" * 32], await FakeProvider("inactive").embed_documents(["text"]))
    await found(one, "thing")
    assert len(builds) == 1
    await other.put_vectors(["1" * 32], await provider.embed_documents(["text"]))
    await found(one, "thing")
    assert len(builds) == 2
    await one.aclose()
    await other.aclose()


async def test_searches_at_one_moment_share_one_index(folder: Path, builds: list[None]) -> None:
    store = await opened(folder)
    await store.upsert_rules([rule(f"r{i}") for i in range(50)])
    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(found, store, "thing")
    assert len(builds) == 1
    await store.aclose()


async def test_a_rule_deleted_after_the_index_was_built_does_not_answer(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = await opened(folder), await opened(folder)
    await one.upsert_rules([rule("gone"), rule("kept")])
    current = one._index_for

    def stale(space: Any) -> Any:
        index = current(space)
        with closing(sqlite3.connect(one.path, isolation_level=None)) as connection:
            connection.execute("DELETE FROM rules WHERE rule_id = 'gone'")
        return index

    monkeypatch.setattr(one, "_index_for", stale)
    assert await found(one, "thing") == ["kept"]
    await one.aclose()
    await other.aclose()


async def test_eight_threads_write_and_search_one_store_without_loss(folder: Path) -> None:
    store = await opened(folder)

    async def work(worker: int) -> None:
        for i in range(6):
            await store.upsert_rules([rule(f"w{worker}-{i}", f"Guidance of worker{worker} number{i}.")])
            assert f"w{worker}-{i}" in await found(store, f"worker{worker} number{i}")

    async with anyio.create_task_group() as tasks:
        for worker in range(8):
            tasks.start_soon(work, worker)
    assert await store.count_rules() == {"shop": 48}
    assert (await store.match(MatchQuery("guidance"))).considered == 48
    await store.aclose()


WORKER = """
import sys, anyio
from pathlib import Path
from symmetra_mcp.reembed import complete_space
from symmetra_mcp.stores.base import MatchQuery
from symmetra_mcp.stores.sqlite import SqliteStore
from symmetra_mcp.testing import FakeProvider
from symmetra_mcp.types import Rule

async def main(folder, worker):
    store, provider = SqliteStore(Path(folder)), FakeProvider()
    print("ready", flush=True)
    sys.stdin.readline()
    await store.open()
    for i in range(12):
        rule_id = f"w{worker}-{i}"
        await store.upsert_rules([Rule("shop", rule_id, "Title", f"Guidance of worker{worker} number{i}.")])
        matches = await store.match(MatchQuery(f"worker{worker} number{i}", limit=50))
        assert rule_id in [candidate.rule.rule_id for candidate in matches.candidates]
        if i % 6 == 5:
            await complete_space(store, provider, wait=False)
    await complete_space(store, provider)
    await store.aclose()

anyio.run(main, *sys.argv[1:])
"""


@pytest.mark.slow
async def test_processes_write_search_and_embed_one_file_without_loss(folder: Path) -> None:
    run_together(WORKER, 6, folder)
    store = await opened(folder)
    assert await store.verify() == ""
    assert sorted(each.rule_id for each in await store.list_rules()) == sorted(
        f"w{worker}-{i}" for worker in range(6) for i in range(12)
    )
    (status,) = await store.space_statuses()
    assert (status.active, status.passages, status.missing) == (True, 72, 0)
    assert store.notices == []
    await store.aclose()


OPENER = """
import sys, anyio
from pathlib import Path
from symmetra_mcp.stores import sqlite_file
from symmetra_mcp.stores.sqlite import SqliteStore

sqlite_file.MIGRATIONS += tuple(sys.argv[2:-1])

async def main():
    store = SqliteStore(Path(sys.argv[1]))
    print("ready", flush=True)
    sys.stdin.readline()
    await store.open()
    print(await store.count_rules(), store.take_rebuilt(), store.notices)
    await store.aclose()

anyio.run(main)
"""


@pytest.mark.slow
def test_a_new_file_is_made_once_by_processes_that_open_it_together(folder: Path) -> None:
    assert run_together(OPENER, 6, folder) == ["{} False []\n"] * 6
    with closing(sqlite3.connect(folder / FILE_NAME)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (len(sqlite_file.MIGRATIONS),)
        assert connection.execute("SELECT name FROM revisions").fetchall() == [("rules",)]


@pytest.mark.slow
async def test_a_migration_runs_once_by_processes_that_open_the_file_together(folder: Path) -> None:
    await written(folder, rule("kept"))
    migration = "CREATE TABLE extra (number INTEGER); INSERT INTO extra SELECT count(*) FROM rules"
    assert run_together(OPENER, 6, folder, migration) == ["{'shop': 1} False []\n"] * 6
    with closing(sqlite3.connect(folder / FILE_NAME)) as connection:
        assert connection.execute("SELECT number FROM extra").fetchall() == [(1,)]


# A process that dies

WRITER = """
import sys, anyio
from itertools import count
from pathlib import Path
from symmetra_mcp.stores.sqlite import SqliteStore
from symmetra_mcp.types import Rule

async def main():
    store = SqliteStore(Path(sys.argv[1]))
    await store.open()
    for version in count(int(sys.argv[2])):
        text = "\\n\\n".join(f"version{version} " * 150 + f"part{part}." for part in range(4))
        await store.upsert_rules([Rule("shop", f"r{i}", f"Title {version}", f"{text} rule{i}") for i in range(6)])
        print(version, flush=True)

anyio.run(main)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="processes can't be killed without warning here")
@pytest.mark.slow
async def test_a_process_killed_between_and_within_writes_leaves_whole_rules(folder: Path) -> None:
    for number, lines in enumerate((1, 2, 5, 9)):
        process = start(WRITER, folder, number * 1000)
        assert process.stdout is not None
        acknowledged = [int(process.stdout.readline()) for _ in range(lines)][-1]
        process.kill()
        process.communicate()
        store = await opened(folder)
        rules = await store.list_rules()
        (title,) = {each.title for each in rules}
        assert int(title.removeprefix("Title ")) >= acknowledged
        assert [each.rule_id for each in rules] == [f"r{i}" for i in range(6)]
        assert await store.verify() == ""
        assert (store.notices, store.take_rebuilt()) == ([], False)
        with closing(sqlite3.connect(store.path)) as connection:
            stored = connection.execute(
                "SELECT rule_id, ordinal, text, content_hash FROM passages JOIN rules USING (rule_no) "
                "ORDER BY rule_id, ordinal"
            ).fetchall()
        assert stored == [
            (each.rule_id, ordinal, passage.text, passage.content_hash)
            for each in rules
            for ordinal, passage in enumerate(passages(each))
        ]
        assert len(await found(store, title.replace("Title ", "version"))) == 6
        await store.aclose()


HOLDER = """
import sys, anyio
from pathlib import Path
from symmetra_mcp.stores.sqlite import SqliteStore

async def main():
    store = SqliteStore(Path(sys.argv[1]))
    await store.open()
    async with store.exclusive("embedding"):
        print("held", flush=True)
        sys.stdin.readline()

anyio.run(main)
"""


async def test_a_task_is_free_again_when_the_process_that_held_it_is_killed(folder: Path) -> None:
    process = start(HOLDER, folder)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    store = await opened(folder)
    async with store.exclusive("embedding", wait=False) as held:
        assert not held
    process.kill()
    process.communicate()
    async with store.exclusive("embedding", wait=False) as held:
        assert held
    await store.aclose()


# A damaged file


def garbage(path: Path) -> None:
    path.write_bytes(b"This is no database. " * 1000)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def truncated_by_a_page(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4096])


def without_header(path: Path) -> None:
    path.write_bytes(bytes(100) + path.read_bytes()[100:])


def one_kilobyte(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1024])


@pytest.mark.parametrize("damage", [garbage, truncated, truncated_by_a_page, without_header, one_kilobyte])
async def test_a_file_found_damaged_at_opening_is_set_aside_and_a_new_one_begun(
    folder: Path, damage: Callable[[Path], None]
) -> None:
    path = await written(folder, *(rule(f"r{i}", f"Guidance {i}. " * 40) for i in range(100)))
    damage(path)
    damaged = path.read_bytes()
    store = await opened(folder)
    (kept,) = set_aside(folder)
    assert kept.read_bytes() == damaged
    (notice,) = store.notices
    assert repr(str(kept)) in notice
    assert "damaged" in notice
    assert (store.take_rebuilt(), store.take_rebuilt()) == (True, False)
    assert await store.list_rules() == []
    await store.upsert_rules([rule("new")])
    assert await found(store, "right thing") == ["new"]
    await store.aclose()
    again = await opened(folder)
    assert await again.list_rules() == [rule("new")]
    assert (again.notices, again.take_rebuilt(), set_aside(folder)) == ([], False, [kept])
    await again.aclose()


def zero_a_table(path: Path, table: str) -> bytes:
    """Fill the first page of a table with zeros, as a bad disk does."""
    with closing(sqlite3.connect(path)) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    content = bytearray(path.read_bytes())
    content[(page - 1) * size : page * size] = bytes(size)
    path.write_bytes(content)
    return bytes(content)


async def _search_by_meaning(store: SqliteStore) -> None:
    provider = FakeProvider()
    await store.match(MatchQuery("thing", (await provider.embed_query("thing")).vectors[0], provider.space))


@pytest.mark.parametrize(
    ("table", "use"),
    [
        pytest.param("rules", SqliteStore.list_rules, id="rules-listed"),
        pytest.param("rules", lambda store: found(store, "thing"), id="rules-searched"),
        pytest.param("rules", lambda store: store.upsert_rules([rule("new")]), id="rules-written"),
        pytest.param("passages", lambda store: store.missing_passages(FakeProvider("new").space), id="passages-read"),
        pytest.param("vectors", _search_by_meaning, id="vectors-searched"),
    ],
)
async def test_a_file_that_a_query_finds_damaged_is_set_aside_and_a_new_one_begun(
    folder: Path, table: str, use: Callable[[SqliteStore], Any]
) -> None:
    store = await opened(folder)
    await store.upsert_rules([rule(f"r{i}", f"Guidance {i}. " * 40) for i in range(50)])
    await complete_space(store, FakeProvider())
    await store.aclose()
    damaged = zero_a_table(store.path, table)
    store = await opened(folder)
    assert (store.notices, store.take_rebuilt()) == ([], False)
    with pytest.raises(StoreUnavailableError, match=r"set aside .* again in a moment"):
        await use(store)
    (kept,) = set_aside(folder)
    assert kept.read_bytes() == damaged
    assert len(store.notices) == 1
    assert repr(str(kept)) in store.notices[0]
    assert (store.take_rebuilt(), store.take_rebuilt()) == (True, False)
    await store.upsert_rules([rule("new")])
    assert await found(store, "thing") == ["new"]
    assert await store.verify() == ""
    await store.aclose()


async def test_a_check_of_a_damaged_file_tells_what_is_wrong(folder: Path) -> None:
    path = await written(folder, *(rule(f"r{i}", f"Guidance {i}. " * 40) for i in range(50)))
    zero_a_table(path, "rules")
    store = await opened(folder)
    problem = await store.verify()
    assert problem
    assert set_aside(folder) == []
    await store.aclose()


async def test_two_stores_that_find_the_same_damage_set_it_aside_once(folder: Path) -> None:
    path = await written(folder, *(rule(f"r{i}", f"Guidance {i}. " * 40) for i in range(50)))
    zero_a_table(path, "rules")
    one, other = await opened(folder), await opened(folder)
    with pytest.raises(StoreUnavailableError):
        await one.list_rules()
    await one.upsert_rules([rule("new")])
    assert await other.list_rules() == [rule("new")]
    assert len(set_aside(folder)) == 1
    assert (one.take_rebuilt(), other.take_rebuilt()) == (True, True)
    await one.aclose()
    await other.aclose()


async def test_a_store_follows_when_another_sets_the_file_aside(folder: Path) -> None:
    path = await written(folder, *(rule(f"r{i}", f"Guidance {i}. " * 40) for i in range(50)))
    one, other = await opened(folder), await opened(folder)
    zero_a_table(path, "rules")
    with pytest.raises(StoreUnavailableError):
        await one.list_rules()
    await other.upsert_rules([rule("written after")])
    assert await one.list_rules() == [rule("written after")]
    await one.aclose()
    await other.aclose()


async def test_a_store_whose_file_is_deleted_begins_a_new_one(folder: Path) -> None:
    path = await written(folder, rule("before"))
    store = await opened(folder)
    for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
        (folder / name).unlink(missing_ok=True)
    await store.upsert_rules([rule("after")])
    assert store.take_rebuilt()
    again = await opened(folder)
    assert await again.list_rules() == [rule("after")]
    await again.aclose()
    await store.aclose()


# A file that is whole and can't be used now


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_file, "BUSY_TIMEOUT_S", 0.05)
    monkeypatch.setattr(sqlite_file, "LOCK_TIMEOUT_S", 0.05)


@pytest.mark.usefixtures("impatient")
async def test_a_file_that_another_program_locks_is_not_set_aside(folder: Path) -> None:
    path = await written(folder, rule("kept"))
    with closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("PRAGMA locking_mode = EXCLUSIVE")
        holder.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreUnavailableError, match="busy"):
            await opened(folder)
    assert set_aside(folder) == []
    store = await opened(folder)
    assert await store.list_rules() == [rule("kept")]
    await store.aclose()


@pytest.mark.usefixtures("impatient")
async def test_a_write_during_anothers_transaction_changes_nothing_and_reads_go_on(folder: Path) -> None:
    path = await written(folder, rule("kept"))
    store = await opened(folder)
    with closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailableError, match="busy"):
            await store.upsert_rules([rule("new")])
        assert await found(store, "right thing") == ["kept"]
        holder.execute("ROLLBACK")
    await store.upsert_rules([rule("new")])
    assert [each.rule_id for each in await store.list_rules()] == ["kept", "new"]
    assert (store.notices, set_aside(folder)) == ([], [])
    await store.aclose()


@pytest.mark.usefixtures("impatient")
async def test_opening_while_another_process_migrates_says_to_try_again(folder: Path) -> None:
    await written(folder, rule("kept"))
    with sqlite_file.lock_of(folder / FILE_NAME), pytest.raises(StoreUnavailableError, match="try again"):
        await opened(folder)
    store = await opened(folder)
    assert await store.list_rules() == [rule("kept")]
    await store.aclose()


def a_file_in_its_place(tmp_path: Path) -> Path:
    (tmp_path / "data").write_text("a file")
    return tmp_path / "data"


def below_a_file(tmp_path: Path) -> Path:
    (tmp_path / "file").write_text("a file")
    return tmp_path / "file" / "data"


def a_folder_as_database(tmp_path: Path) -> Path:
    (tmp_path / "data" / FILE_NAME).mkdir(parents=True)
    return tmp_path / "data"


@pytest.mark.parametrize("make", [a_file_in_its_place, below_a_file, a_folder_as_database])
async def test_a_folder_that_cannot_be_used_is_named_with_the_setting_that_moves_it(
    tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    folder = make(tmp_path)
    with pytest.raises(StoreUnavailableError, match="SYMMETRA_DATA_DIR") as caught:
        await opened(folder)
    assert str(folder) in str(caught.value)


# A full or read-only disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    try:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no `mount` here")
    if done.returncode:
        pytest.skip(f"a small disk can't be mounted here: {done.stderr.decode(errors='replace').strip()}")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def fill_up(disk: Path) -> Path:
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    return filler


def remount(disk: Path, option: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{option}", disk], check=True)


@pytest.mark.slow
async def test_a_full_disk_refuses_a_change_keeps_the_rules_and_works_again_later(small_disk: Path) -> None:
    folder = small_disk / "data"
    before = [rule(f"r{i}") for i in range(5)]
    store = await opened(folder)
    await store.upsert_rules(before)
    filler = fill_up(small_disk)
    large = [rule(f"large{i}", f"word{i} " * 5000) for i in range(20)]
    for _ in range(2):
        with pytest.raises(StoreUnavailableError, match="SYMMETRA_DATA_DIR") as caught:
            await store.upsert_rules(large)
        assert str(folder) in str(caught.value)
    assert await store.list_rules() == before
    assert sorted(await found(store, "right thing")) == [each.rule_id for each in before]
    filler.unlink()
    await store.upsert_rules([rule("r5")])
    assert await store.list_rules() == [*before, rule("r5")]
    assert await store.verify() == ""
    assert (store.notices, set_aside(folder)) == ([], [])
    await store.aclose()


async def test_opening_on_a_full_disk_names_the_folder_and_works_once_there_is_room(small_disk: Path) -> None:
    folder = small_disk / "data"
    filler = fill_up(small_disk)
    with pytest.raises(StoreUnavailableError, match="SYMMETRA_DATA_DIR") as caught:
        await opened(folder)
    assert str(folder) in str(caught.value)
    filler.unlink()
    store = await opened(folder)
    await store.upsert_rules([rule("new")])
    assert (await store.list_rules(), store.notices) == ([rule("new")], [])
    await store.aclose()


async def test_a_read_only_disk_is_named_with_the_setting_that_moves_the_store(small_disk: Path) -> None:
    folder = small_disk / "data"
    await written(folder, rule("kept"))
    remount(small_disk, "ro")
    with pytest.raises(StoreUnavailableError, match="SYMMETRA_DATA_DIR") as caught:
        await opened(folder)
    assert str(folder) in str(caught.value)
    remount(small_disk, "rw")
    store = await opened(folder)
    assert await store.list_rules() == [rule("kept")]
    await store.aclose()


# Odds and ends


async def test_an_older_versions_search_terms_are_worked_out_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = await written(folder, rule("pin", "Pin dependencies."))
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE rules SET terms = x''")
    store = await opened(folder)
    assert await found(store, "dependencies") == []
    await store.aclose()
    monkeypatch.setattr(sqlite, "TERMS_VERSION", sqlite.TERMS_VERSION + 1)
    store = await opened(folder)
    assert await found(store, "dependencies") == ["pin"]
    await store.aclose()


async def test_a_description_tells_where_the_store_is_and_how_large(folder: Path) -> None:
    store = await opened(folder)
    described = await store.describe()
    assert described == {
        "kind": "sqlite",
        "path": str(folder / FILE_NAME),
        "size_bytes": described["size_bytes"],
        "vectors": 0,
    }
    assert isinstance(described["size_bytes"], int)
    assert described["size_bytes"] > 4096
    await store.aclose()


def test_constructing_a_store_touches_no_disk(folder: Path) -> None:
    SqliteStore(folder)
    assert not folder.exists()
