"""Search in the team's store: how fast and how exact, on a real Postgres with pgvector.

For each number of rules, in one run: `match_rules` in SQL over one connection, the same searches through
`SupabaseStore` (supabase-py, the gateway of the tests, Postgres), and the same in the embedded store; by meaning and
words, by one of them, without and with filters. Beside them what Postgres does by itself with the same rows and
queries: `order by embedding <=> query`, compared exactly and with an HNSW index, and full text with `ts_rank`. Recall
is of the ten nearest rules against an exact comparison; agreement is the share of the first ten that both stores name.

Rules and queries have real texts when files are given, made-up ones without; beyond those of the file, sentences of
different rules are put together. Synthetic vectors are unit vectors in 200 clusters, ten for each of 20 projects; the
other filters are independent of the vectors. `--vectors local` embeds with the bundled model instead.

    python benchmarks/supabase.py [--rules 1000 10000 100000] [--rulefile FILE.jsonl.gz] [--queries FILE.jsonl]
    python benchmarks/supabase.py --sql-only --rules 1000000 [--server postgresql://...]
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import multiprocessing
import os
import random
import re
import statistics
import struct
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

# Instead of this folder: its `supabase.py` would be taken for the package of that name.
sys.path.pop(0)
sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

import anyio
import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg.conninfo import make_conninfo
from pydantic import SecretStr
from supabase_stack.gateway import Gateway
from supabase_stack.keys import SECRET_KEY
from supabase_stack.postgres import Server

from symmetra_mcp.config import SupabaseAddress
from symmetra_mcp.probes import probe_passages
from symmetra_mcp.providers.base import Embeddings
from symmetra_mcp.providers.local import LocalProvider
from symmetra_mcp.spaces import EmbeddingSpace
from symmetra_mcp.stores.base import Matches, MatchQuery, RuleFilter, RuleStore
from symmetra_mcp.stores.schema import install_body, migrations
from symmetra_mcp.stores.sqlite import SqliteStore
from symmetra_mcp.stores.supabase import SupabaseStore
from symmetra_mcp.stores.supabase_wire import row_of_rule, row_of_space, vector_text
from symmetra_mcp.types import Rule
from symmetra_mcp.words import MAX_QUERY_TERMS, query_terms, signed_hash

Vectors = NDArray[np.float32]
Connection = psycopg.Connection[Any]

PROJECTS = 20
CLUSTERS_A_PROJECT = 10
SPREAD = 0.9
"""Of a vector around its cluster's center: two of one have a cosine of about 0.55, like rules of one subject."""
CATEGORIES = (("rare", 0.01), ("tenth", 0.10), ("quarter", 0.25), ("rest", 0.64))
STACKS: tuple[tuple[str, ...], ...] = (("python",), ("react", "javascript"), ("go",), ())
FILTERS = {
    "none": RuleFilter(),
    "category 1 %": RuleFilter(category="rare"),
    "category 10 %": RuleFilter(category="tenth"),
    "category 25 %": RuleFilter(category="quarter"),
    "project 5 %": RuleFilter(project_ids=("p3",)),
    "stack 50 %": RuleFilter(tech_stacks=("python",)),
}
MODES = ("hybrid", "meaning", "words")
LIMIT = 20
"""As `search_rules` asks its store."""
PAGE = 500
FIRST = 10
SENTENCES = 4
LONGEST_TEXT = 1_500
MADE_UP = " ".join(
    (
        "always avoid cache check client close column commit component config connection database default deploy",
        "document every error event explicit factory field file format function handle header import index input",
        "interface key large limit list log message method migration model module name never number object order",
        "output page parameter password pattern prefer process query queue read request response retry return role",
        "schema secret server service session state status store string table test thread time token transaction",
    )
).split()


# What is searched, and for what


class Corpus:
    """Rules by number, always the same; and queries with their vectors."""

    def __init__(self, rulefile: Path | None, queries: Path | None, vectors: str) -> None:
        self.pool = _pool(rulefile)
        parts = (part.strip() for _, text in self.pool for part in re.split(r"(?<=[.!?])\s+|\n+", text))
        self.sentences = [part for part in parts if 20 < len(part) < 300]
        self.texts = _query_texts(queries)
        self.provider = LocalProvider() if vectors == "local" else None
        self.space = self.provider.space if self.provider else EmbeddingSpace("bench", "clusters", 384)
        rng = np.random.default_rng(0)
        shape = (PROJECTS * CLUSTERS_A_PROJECT, self.space.dimensions)
        self.centers = rng.standard_normal(shape, np.float32)

    def rule(self, number: int) -> Rule:
        rng = random.Random(number)
        title, text = self.pool[number % len(self.pool)]
        if number >= len(self.pool):
            text = " ".join(rng.choices(self.sentences, k=SENTENCES))
        category = rng.choices([name for name, _ in CATEGORIES], [share for _, share in CATEGORIES])[0]
        project = f"p{number % PROJECTS}"
        stacks = rng.choice(STACKS)
        return Rule(project, f"r{number}", title, text[:LONGEST_TEXT], category=category, tech_stacks=stacks)

    def rules(self, start: int, stop: int) -> list[Rule]:
        return [self.rule(number) for number in range(start, stop)]

    async def embedded(self, page: Sequence[Text], seed: int) -> Vectors:
        """A vector for each text."""
        if self.provider is not None:
            return (await self.provider.embed_documents([text.text for text in page])).vectors
        return self.clustered(
            [PROJECTS * (int(t.content_hash[:6], 16) % CLUSTERS_A_PROJECT) + t.project for t in page], seed
        )

    def clustered(self, clusters: Sequence[int], seed: int) -> Vectors:
        noise = np.random.default_rng(seed).standard_normal((len(clusters), self.space.dimensions), np.float32)
        return _unit(self.centers[list(clusters)] + np.float32(SPREAD) * noise)

    async def queries(self, count: int) -> list[tuple[str, Vectors]]:
        rng = random.Random(1)
        texts = [rng.choice(self.texts) for _ in range(count)]
        if self.provider is not None:
            return [(text, (await self.provider.embed_query(text)).vectors[0]) for text in texts]
        vectors = self.clustered([rng.randrange(len(self.centers)) for _ in texts], seed=2)
        return list(zip(texts, vectors, strict=True))

    async def probes(self) -> Vectors:
        """Vectors of questions that no rule is about: synthetic ones are near no cluster."""
        if self.provider is not None:
            return (await self.provider.embed_documents([probe.text for probe in probe_passages()])).vectors
        shape = (len(probe_passages()), self.space.dimensions)
        return _unit(np.random.default_rng(3).standard_normal(shape, np.float32))


@dataclass(frozen=True, slots=True)
class Text:
    """A text to embed, and the number of the project that its vector belongs to."""

    content_hash: str
    project: int
    text: str


def _pool(path: Path | None) -> list[tuple[str, str]]:
    if path is None:
        rng = random.Random(0)
        made = [". ".join(" ".join(rng.choices(MADE_UP, k=12)) for _ in range(4)) for _ in range(2_000)]
        return [(" ".join(text.split()[:4]), text) for text in made]
    with gzip.open(path, "rt", encoding="utf-8") as file:
        entries = [json.loads(line) for line in file]
    return [(entry["title"], entry["text"]) for entry in entries]


def _query_texts(path: Path | None) -> list[str]:
    if path is None:
        rng = random.Random(4)
        return [" ".join(rng.choices(MADE_UP, k=rng.randint(3, 12))) for _ in range(500)]
    return [json.loads(line)["text"] for line in path.read_text("utf-8").splitlines() if line.strip()]


def _unit(vectors: Vectors) -> Vectors:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


# What is measured


@dataclass(slots=True)
class Timing:
    """Milliseconds of one kind of search.

    Attributes:
        first_ms: Of the first with this filter: the database works out how near unrelated questions come.
    """

    median_ms: float = math.nan
    p95_ms: float = math.nan
    first_ms: float = math.nan
    load: float = math.nan

    @classmethod
    def of(cls, taken_s: Sequence[float]) -> Timing:
        rest = [seconds * 1000 for seconds in taken_s[1:]]
        return cls(statistics.median(rest), p95(rest), taken_s[0] * 1000, os.getloadavg()[0])


@dataclass(slots=True)
class Search:
    """One mode with one filter, in every way."""

    mode: str
    filter: str
    considered: int = 0
    sql: Timing = field(default_factory=Timing)
    store: Timing = field(default_factory=Timing)
    embedded: Timing = field(default_factory=Timing)
    recall: float = math.nan
    lowest_recall: float = math.nan
    agreement: float = math.nan


@dataclass(slots=True)
class Fill:
    """What it took to get the rules in."""

    rules: int
    passages: int = 0
    postings: int = 0
    way: str = "the store's calls"
    rules_s: float = 0.0
    vectors_s: float = 0.0
    index_s: float = 0.0
    index_mb: float = 0.0
    sizes_mb: dict[str, float] = field(default_factory=dict)
    embedded_s: float = 0.0
    problem: str = ""


def p95(values: Sequence[float]) -> float:
    return sorted(values)[int(0.95 * (len(values) - 1))]


def keys_of_answer(answer: dict[str, Any]) -> list[str]:
    return [candidate["rule"]["rule_id"] for candidate in answer["candidates"]]


def keys_of_matches(matches: Matches) -> list[str]:
    return [candidate.rule.rule_id for candidate in matches.candidates]


def shared(one: Sequence[str], other: Sequence[str]) -> float:
    """Share of the first ten of `other` that the first ten of `one` hold."""
    wanted = set(other[:FIRST])
    return len(wanted & set(one[:FIRST])) / len(wanted) if wanted else 1.0


# The database


class Database:
    """The schema on a Postgres of its own, one connection, and what SQL says."""

    def __init__(self, connection: Connection, dsn: str, corpus: Corpus) -> None:
        self.connection = connection
        self.dsn = dsn
        self.corpus = corpus
        self.asker = SupabaseStore(SupabaseAddress("http://127.0.0.1:1", SecretStr("none")))
        """Never opened: it only writes requests, so that SQL is asked what the product asks."""
        self.backgrounds: dict[str, dict[str, Any]] = {}

    def one(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        row = self.connection.execute(sql, parameters).fetchone()
        return None if row is None else row[0]

    def install(self) -> None:
        self.connection.execute(install_body(migrations()).encode(), prepare=False)
        self.connection.execute(
            "create function public.bench_nothing() returns jsonb language sql stable as 'select to_jsonb(1)'"
        )
        self.connection.execute("grant execute on function public.bench_nothing() to service_role")
        self.connection.execute("notify pgrst, 'reload schema'")

    def texts(self) -> list[Text]:
        """All texts to embed, in the order of their hashes."""
        rows = self.connection.execute(
            "select p.content_hash, min(substr(r.project_id, 2)::int), %s from symmetra.passages as p "
            "join symmetra.rules as r using (rule_no) group by 1 order by 1".replace(
                "%s", "min(p.text)" if self.corpus.provider else "''"
            )
        )
        return [Text(*row) for row in rows]

    def fill_in_bulk(self, rules: int) -> None:
        """Write the rows that `symmetra_write_rules` writes, and those of its triggers once at the end."""
        middle = rules // 2 // PAGE * PAGE
        fork = multiprocessing.get_context("fork")
        halves = [
            fork.Process(target=write_rules_without_triggers, args=(self.dsn, self.corpus, start, stop))
            for start, stop in ((0, middle), (middle, rules))
            if start < stop
        ]
        for process in halves:
            process.start()
        for process in halves:
            process.join()
            if process.exitcode:
                raise SystemExit("a process that wrote rules failed")
        with self.connection.transaction():
            self.connection.execute("set local session_replication_role = replica")
            self.connection.execute("set local work_mem = '512MB'")
            for statement in WHAT_TRIGGERS_WRITE:
                self.connection.execute(statement)

    def copy_vectors(self, pages: Iterator[tuple[Sequence[str], Vectors]]) -> None:
        """Write vectors with COPY in its binary form."""
        space = self.one(
            "select (symmetra.register_space(%s::jsonb)).space_no", [json.dumps(row_of_space(self.corpus.space))]
        )
        dimensions = self.corpus.space.dimensions
        size = 4 + 4 * dimensions
        with self.connection.cursor() as cursor, cursor.copy(COPY_VECTORS) as copy:
            copy.write(b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0))
            for hashes, vectors in pages:
                body = vectors.astype(">f4")
                for content_hash, row in zip(hashes, body, strict=True):
                    head = struct.pack(">hihi", 3, 2, space, len(content_hash)) + content_hash.encode()
                    copy.write(head + struct.pack(">ihh", size, dimensions, 0) + row.tobytes())
            copy.write(struct.pack(">h", -1))

    def put_probes(self, vectors: Vectors) -> None:
        probes = [[p.content_hash, vector_text(v)] for p, v in zip(probe_passages(), vectors, strict=True)]
        space = json.dumps(row_of_space(self.corpus.space))
        self.one("select symmetra_put_vectors(%s::jsonb, '[]', %s, 0, gen_random_uuid())", [space, json.dumps(probes)])

    def settle(self, fill: Fill) -> None:
        """Activate the space, build the index where one pays, gather statistics, note sizes."""
        self.one("select symmetra_activate_space(%s::jsonb)", [json.dumps(row_of_space(self.corpus.space))])
        self.connection.execute("vacuum analyze")
        self.one("select symmetra_spaces()")
        self.connection.execute("set maintenance_work_mem = '3GB'")
        for (statement,) in self.connection.execute(
            "select symmetra.index_statement(space_no) from symmetra.index_advice() where advised"
        ).fetchall():
            began = time.perf_counter()
            self.connection.execute(statement)
            fill.index_s = time.perf_counter() - began
        fill.index_mb = self.one(
            "select coalesce(sum(pg_relation_size(oid)), 0) / 1e6 from pg_class where relname ~ '^vectors_of_space_'"
        )
        fill.index_mb = float(fill.index_mb)
        fill.sizes_mb = {
            name: float(size)
            for name, size in self.connection.execute(
                "select relname, pg_total_relation_size(oid) / 1e6 from pg_class where relkind = 'r' "
                "and relnamespace = 'symmetra'::regnamespace and pg_total_relation_size(oid) > 1e5 order by 2 desc"
            )
        }
        fill.passages = self.one("select count(*) from symmetra.passages")
        fill.postings = self.one("select count(*) from symmetra.postings")
        self.connection.execute("set statement_timeout = 0")
        fill.problem = self.one("select symmetra_verify()")

    def request(self, query: MatchQuery, known: str) -> str:
        terms = [signed_hash(term) for term in query_terms(query.text, MAX_QUERY_TERMS)]
        request = self.asker._request(query, terms)
        request["known_background"] = self.backgrounds.get(known)
        return json.dumps(request)

    def match(self, query: MatchQuery, known: str) -> tuple[dict[str, Any], float]:
        """The answer and how many seconds the statement took."""
        request = self.request(query, known)
        began = time.perf_counter()
        answer = self.one("select match_rules(%s::jsonb)", [request])
        taken = time.perf_counter() - began
        if answer.get("token"):
            self.backgrounds[known] = {"token": answer["token"], "value": answer["background"]}
        return answer, taken

    def nearest(self, vector: Vectors, name: str) -> list[str]:
        """The ten nearest rules that pass a filter, every vector compared."""
        parameters = [vector_text(vector), *FILTER_PARAMETERS[name]]
        return [row[0] for row in self.connection.execute(EXACT.format(FILTER_CONDITIONS[name]).encode(), parameters)]


def write_rules_without_triggers(dsn: str, corpus: Corpus, start: int, stop: int) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("set session_replication_role = replica")
        for first in range(start, stop, PAGE):
            rows = [row_of_rule(rule) for rule in corpus.rules(first, min(first + PAGE, stop))]
            connection.execute("select symmetra.write_rules(%s)", [json.dumps(rows)])


WHAT_TRIGGERS_WRITE = (
    """insert into symmetra.postings (term, rule_no, facet_no, occurrences, rule_length)
      select t.term, r.rule_no, r.facet_no, t.occurrences, r.term_length
      from symmetra.rules as r, unnest(r.terms, r.term_counts) as t (term, occurrences) order by 1, 2""",
    "insert into symmetra.term_statistics select term, count(*) from symmetra.postings group by term",
    """update symmetra.facets as f set rule_count = r.n
      from (select facet_no, count(*) as n from symmetra.rules group by 1) as r where r.facet_no = f.facet_no""",
    """update symmetra.state set (rule_count, term_total)
      = (select count(*), sum(term_length::float8) from symmetra.rules)""",
)
SETTINGS = ("shared_buffers", "work_mem", "random_page_cost", "jit")
COPY_VECTORS = "copy symmetra.vectors (space_no, content_hash, embedding) from stdin with (format binary)"
EXACT = """
select r.rule_id from symmetra.rules as r join (
  select p.rule_no, min(v.embedding operator(extensions.<=>) %s::extensions.vector) as d
    from symmetra.passages as p join symmetra.vectors as v using (content_hash)
    join symmetra.facets as f on f.facet_no = p.facet_no where {}
    group by p.rule_no order by d, p.rule_no limit 10) as n using (rule_no) order by n.d, rule_no
"""
FILTER_CONDITIONS = {
    "none": "true",
    "category 1 %": "f.category_key = %s",
    "category 10 %": "f.category_key = %s",
    "category 25 %": "f.category_key = %s",
    "project 5 %": "f.project_id = %s",
    "stack 50 %": "(f.tech_stacks = '{{}}' or f.tech_stacks && %s)",
}
FILTER_PARAMETERS: dict[str, list[Any]] = {
    name: [*([f.category] if f.category else []), *f.project_ids, *([list(f.tech_stacks)] if f.tech_stacks else [])]
    for name, f in FILTERS.items()
}


# Postgres by itself

RAW = {
    "vectors, exact": "select content_hash from symmetra.vectors where space_no = 1 "
    "order by (embedding operator(extensions.<=>) %s::extensions.vector) + 0 limit 10",
    "vectors, HNSW": "select content_hash from symmetra.vectors where space_no = 1 "
    "order by embedding::extensions.halfvec({0}) operator(extensions.<=>) %s::extensions.halfvec({0}) limit 10",
    "full text, any word": "select t.rule_no, ts_rank(t.words, q) as rank from bench_texts as t, "
    "to_tsquery('english', replace(plainto_tsquery('english', %s)::text, '&', '|')) as q "
    "where t.words @@ q order by rank desc limit 10",
    "full text, every word": "select t.rule_no, ts_rank(t.words, q) as rank from bench_texts as t, "
    "plainto_tsquery('english', %s) as q where t.words @@ q order by rank desc limit 10",
}


def raw_timings(database: Database, queries: Sequence[tuple[str, Vectors]], fill: Fill) -> dict[str, Timing]:
    """What a project would write by hand: each half of a search alone, without filters."""
    connection = database.connection
    connection.execute(
        "create table bench_texts as select rule_no, to_tsvector('english', title || ' ' || guidance) as words "
        "from symmetra.rules"
    )
    connection.execute("create index on bench_texts using gin (words)")
    connection.execute("vacuum analyze bench_texts")
    timings = {}
    for name, sql in RAW.items():
        if "HNSW" in name and not fill.index_mb:
            continue
        statement, taken, asked = sql.format(database.corpus.space.dimensions), [], queries
        if "exact" in name and fill.rules > 200_000:
            asked = queries[:20]
        for text, vector in asked:
            parameter = vector_text(vector) if name.startswith("vectors") else text
            began = time.perf_counter()
            connection.execute(statement.encode(), [parameter]).fetchall()
            taken.append(time.perf_counter() - began)
        timings[name] = Timing.of(taken)
    return timings


# Searches


def query_of(mode: str, name: str, text: str, vector: Vectors, space: EmbeddingSpace) -> MatchQuery:
    return MatchQuery(
        text="" if mode == "meaning" else text,
        vector=None if mode == "words" else vector,
        space=None if mode == "words" else space,
        rule_filter=FILTERS[name],
        limit=LIMIT,
    )


async def timed_matches(store: RuleStore, queries: Sequence[MatchQuery]) -> tuple[Timing, list[Matches]]:
    taken, answers = [], []
    for query in queries:
        began = time.perf_counter()
        answers.append(await store.match(query))
        taken.append(time.perf_counter() - began)
    return Timing.of(taken), answers


async def searches(
    database: Database, stores: Stores, queries: Sequence[tuple[str, Vectors]], recall_queries: int
) -> AsyncIterator[Search]:
    for name in FILTERS:
        wanted = [database.nearest(vector, name) for _, vector in queries[:recall_queries]]
        for mode in MODES:
            search = Search(mode, name)
            asked = [query_of(mode, name, text, vector, database.corpus.space) for text, vector in queries]
            answers, taken = zip(*(database.match(query, name) for query in asked), strict=True)
            search.sql, search.considered = Timing.of(taken), answers[0]["considered"]
            if stores.shared is not None:
                search.store, _ = await timed_matches(stores.shared, asked)
            if stores.embedded is not None:
                search.embedded, matches = await timed_matches(stores.embedded, asked)
                pairs = zip(answers, matches, strict=True)
                search.agreement = statistics.mean(shared(keys_of_answer(a), keys_of_matches(m)) for a, m in pairs)
            if mode == "meaning":
                recalls = [shared(keys_of_answer(a), w) for a, w in zip(answers, wanted, strict=False)]
                search.recall, search.lowest_recall = statistics.mean(recalls), min(recalls)
            yield search


@dataclass(slots=True)
class Stores:
    """The stores to search beside SQL."""

    shared: SupabaseStore | None = None
    embedded: SqliteStore | None = None

    @property
    def all(self) -> list[RuleStore]:
        return [store for store in (self.shared, self.embedded) if store is not None]


@asynccontextmanager
async def opened(dsn: str, folder: Path, *, sql_only: bool) -> AsyncIterator[Stores]:
    """The stores, and the gateway in front of one."""
    if sql_only:
        yield Stores()
        return
    gateway = Gateway(dsn)
    gateway.start()
    stores = Stores(SupabaseStore(SupabaseAddress(gateway.url, SecretStr(SECRET_KEY))), SqliteStore(folder))
    try:
        for store in stores.all:
            await store.open()
        yield stores
    finally:
        for store in stores.all:
            await store.aclose()
        gateway.stop()


async def fill_stores(stores: Stores, corpus: Corpus, rules: int, database: Database) -> Fill:
    """The same rules and vectors in both stores, by their own calls."""
    fill = Fill(rules)
    for store in stores.all:
        began = time.perf_counter()
        for start in range(0, rules, PAGE):
            await store.upsert_rules(corpus.rules(start, min(start + PAGE, rules)))
        rules_s = time.perf_counter() - began
        if store is stores.shared:
            fill.rules_s = rules_s
    probes = [probe.content_hash for probe in probe_passages()]
    texts, vectors_s, embedded_s = database.texts(), 0.0, 0.0
    for start in range(0, len(texts), 2_000):
        page = texts[start : start + 2_000]
        vectors = Embeddings(await corpus.embedded(page, start), corpus.space)
        hashes = [text.content_hash for text in page]
        began = time.perf_counter()
        await stores.all[0].put_vectors(hashes, vectors)
        between = time.perf_counter()
        await stores.all[1].put_vectors(hashes, vectors)
        vectors_s, embedded_s = vectors_s + between - began, embedded_s + time.perf_counter() - between
    fill.vectors_s, fill.embedded_s = vectors_s, rules_s + embedded_s
    for store in stores.all:
        await store.put_vectors(probes, Embeddings(await corpus.probes(), corpus.space))
        await store.activate_space(corpus.space)
    return fill


async def fill_in_bulk(corpus: Corpus, rules: int, database: Database) -> Fill:
    fill = Fill(rules, way="in bulk, triggers off")
    began = time.perf_counter()
    database.fill_in_bulk(rules)
    fill.rules_s = time.perf_counter() - began
    texts = database.texts()
    began = time.perf_counter()

    def pages() -> Iterator[tuple[Sequence[str], Vectors]]:
        for start in range(0, len(texts), 2_000):
            page = texts[start : start + 2_000]
            yield [text.content_hash for text in page], anyio.from_thread.run(corpus.embedded, page, start)

    await anyio.to_thread.run_sync(database.copy_vectors, pages())
    fill.vectors_s = time.perf_counter() - began
    database.put_probes(await corpus.probes())
    return fill


async def round_trip(store: SupabaseStore) -> Timing:
    """A call of a function that does nothing: what supabase-py and the gateway take."""
    taken = []
    for _ in range(200):
        began = time.perf_counter()
        await store._client.call("bench_nothing", {})
        taken.append(time.perf_counter() - began)
    return Timing.of(taken[20:])


# What is printed


def print_server(database: Database) -> None:
    told = ", ".join(f"{name} {database.one(f'show {name}')}" for name in ("server_version", *SETTINGS))
    pgvector = database.one("select extversion from pg_extension where extname = 'vector'")
    print(f"\nPostgres: {told}; pgvector {pgvector}; {os.cpu_count()} cores", flush=True)


def print_fill(fill: Fill) -> None:
    sizes = ", ".join(f"{name} {size:,.0f}" for name, size in fill.sizes_mb.items())
    index = f"index in {fill.index_s:.1f} s, {fill.index_mb:,.0f} MB" if fill.index_mb else "no index"
    print(
        f"\n{fill.rules:,} rules, {fill.passages:,} texts, {fill.postings / fill.rules:.1f} terms a rule; filled by "
        f"{fill.way}: {fill.rules / fill.rules_s:,.0f} rules/s, {fill.passages / fill.vectors_s:,.0f} vectors/s; "
        f"{index}; load {os.getloadavg()[0]:.1f}\nMB: {sizes}"
        + (f"\nfilling the embedded store: {fill.embedded_s:.1f} s" if fill.embedded_s else "")
        + (f"\nVERIFY: {fill.problem}" if fill.problem else ""),
        flush=True,
    )
    print(
        f"\n{'':8} {'':14} {'':>9} {'SQL':^24} {'through the store':^24} {'embedded':^16}\n"
        f"{'mode':8} {'filter':14} {'rules':>9} {'median':>7} {'p95':>7} {'first':>8} {'median':>7} {'p95':>7} "
        f"{'first':>8} {'median':>7} {'p95':>8} {'recall':>7} {'lowest':>7} {'agree':>6} {'load':>5}"
    )


def print_search(search: Search) -> None:
    def cell(value: float, width: int, digits: int) -> str:
        return f"{'-' if math.isnan(value) else format(value, f',.{digits}f'):>{width}}"

    first = search.mode == "hybrid"
    print(
        f"{search.mode:8} {search.filter:14} {search.considered:9,} "
        f"{cell(search.sql.median_ms, 7, 1)} {cell(search.sql.p95_ms, 7, 1)} "
        f"{cell(search.sql.first_ms if first else math.nan, 8, 0)} "
        f"{cell(search.store.median_ms, 7, 1)} {cell(search.store.p95_ms, 7, 1)} "
        f"{cell(search.store.first_ms if first else math.nan, 8, 0)} "
        f"{cell(search.embedded.median_ms, 7, 1)} {cell(search.embedded.p95_ms, 8, 1)} "
        f"{cell(search.recall, 7, 4)} {cell(search.lowest_recall, 7, 2)} {cell(search.agreement, 6, 3)} "
        f"{cell(search.sql.load, 5, 1)}",
        flush=True,
    )


def print_raw(raw: dict[str, Timing], found: Sequence[Search]) -> None:
    ours = {search.mode: search.sql.median_ms for search in found if search.filter == "none"}
    against = {"vectors": "meaning", "full text": "words"}
    print(f"\n{'Postgres by itself, no filter':30} {'median':>8} {'p95':>8}   match_rules")
    for name, timing in raw.items():
        mode = against[name.partition(",")[0]]
        ratio = f"{mode} {ours[mode] / timing.median_ms:.2f} times that"
        print(f"{name:30} {timing.median_ms:8.1f} {timing.p95_ms:8.1f}   {ratio}   load {timing.load:.1f}", flush=True)
    halves = [raw[name].median_ms for name in ("vectors, HNSW", "full text, any word") if name in raw]
    if len(halves) == 2:
        print(
            f"{'HNSW and full text, any word':30} {sum(halves):8.1f} {'':8}   "
            f"hybrid {ours['hybrid'] / sum(halves):.2f} times that"
        )


@contextmanager
def database_of(url: str) -> Iterator[tuple[str, str]]:
    """Connection strings of a new database: its administrator's, and the gateway's."""
    if not url:
        server = Server()
        try:
            name = server.create_database()
            yield server.url(name), server.url(name, "authenticator", "authenticator")
        finally:
            server.stop()
        return
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("drop database if exists symmetra_benchmark with (force)")
        connection.execute("create database symmetra_benchmark")
    dsn = make_conninfo(url, dbname="symmetra_benchmark")
    yield dsn, dsn
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("drop database symmetra_benchmark with (force)")


async def measure(rules: int, corpus: Corpus, arguments: argparse.Namespace) -> dict[str, Any]:
    queries = await corpus.queries(arguments.searches + 1)
    with (
        tempfile.TemporaryDirectory() as folder,
        database_of(arguments.server) as (dsn, gateway_dsn),
        psycopg.connect(dsn, autocommit=True, prepare_threshold=0) as connection,
    ):
        database = Database(connection, dsn, corpus)
        database.install()
        print_server(database)
        async with opened(gateway_dsn, Path(folder), sql_only=arguments.sql_only) as stores:
            return await measured(database, stores, rules, queries, arguments.recall_searches)


async def measured(
    database: Database, stores: Stores, rules: int, queries: Sequence[tuple[str, Vectors]], recall_searches: int
) -> dict[str, Any]:
    filled = (
        fill_stores(stores, database.corpus, rules, database)
        if stores.all
        else fill_in_bulk(database.corpus, rules, database)
    )
    fill = await filled
    database.settle(fill)
    print_fill(fill)
    found = []
    async for search in searches(database, stores, queries, recall_searches):
        found.append(search)
        print_search(search)
    raw = raw_timings(database, queries, fill)
    print_raw(raw, found)
    figures = {
        "fill": asdict(fill),
        "searches": [asdict(s) for s in found],
        "raw": {n: asdict(t) for n, t in raw.items()},
    }
    if stores.shared is not None:
        empty = await round_trip(stores.shared)
        print(
            f"an empty call through supabase-py and the gateway: "
            f"median {empty.median_ms:.1f}, p95 {empty.p95_ms:.1f} ms"
        )
        figures["empty call"] = asdict(empty)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rules", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--rulefile", type=Path, help="JSONL, gzipped, with `title` and `text`")
    parser.add_argument("--queries", type=Path, help="JSONL with `text`")
    parser.add_argument("--vectors", choices=("synthetic", "local"), default="synthetic")
    parser.add_argument("--searches", type=int, default=100, help="of each kind")
    parser.add_argument("--recall-searches", type=int, default=40, help="how many of them are compared exactly")
    parser.add_argument("--sql-only", action="store_true", help="fill in bulk, and leave out both stores")
    parser.add_argument(
        "--server", default="", help="connection string of a superuser of another Postgres; alone, with --sql-only"
    )
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    if arguments.server and not arguments.sql_only:
        parser.error("--server needs --sql-only: the gateway's role is the test server's")
    corpus = Corpus(arguments.rulefile, arguments.queries, arguments.vectors)
    figures = [anyio.run(measure, rules, corpus, arguments) for rules in arguments.rules]
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
