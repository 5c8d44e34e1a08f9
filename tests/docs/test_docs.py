"""What the documents say is what the code does."""

from __future__ import annotations

import ast
import importlib
import json
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import get_args

import click
import pytest
from click.testing import CliRunner

import symmetra_mcp
from symmetra_mcp.cli import cli
from symmetra_mcp.config import EmbeddingBackend, LogLevel, Settings, load_settings, variable_of
from symmetra_mcp.ingest.decode import Decoded
from symmetra_mcp.ingest.dialects import DIALECTS, MARKDOWN, dialect_of
from symmetra_mcp.ingest.export import FORMATS, dump_rules
from symmetra_mcp.ingest.importer import read_files
from symmetra_mcp.ingest.native import parse_native, read_rules
from symmetra_mcp.providers.cohere import DIMENSIONS, CohereProvider
from symmetra_mcp.providers.openai import OTHER_DIMENSIONS, OTHER_MAX_REQUEST_TOKENS, OTHER_MAX_TEXTS
from symmetra_mcp.providers.prices import PRICES
from symmetra_mcp.providers.select import select_providers
from symmetra_mcp.starter.install import FOLDER, starter_files
from symmetra_mcp.types import Rule

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = REPOSITORY / "symmetra_mcp"
README = REPOSITORY / "README.md"
CHANGELOG = REPOSITORY / "CHANGELOG.md"
ARCHITECTURE = REPOSITORY / "docs" / "architecture.md"
RULE_FILES = REPOSITORY / "docs" / "rule-files.md"
PROVIDERS = REPOSITORY / "docs" / "providers.md"
HTTP = REPOSITORY / "docs" / "http.md"
EVALUATION = REPOSITORY / "docs" / "evaluation.md"
GUIDES = (ARCHITECTURE, RULE_FILES, PROVIDERS, HTTP, EVALUATION)
DOCUMENTS = (README, CHANGELOG, *GUIDES)
EXAMPLES = sorted((REPOSITORY / "examples").glob("*.py"))

FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
VARIABLE = re.compile(r"SYMMETRA_[A-Z_]+[A-Z]")
SETTING_ROW = re.compile(r"^\| `([A-Z]+_[A-Z_]+)` \| (.*?) \| (.*) \|$", re.MULTILINE)

each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)


def text_of(document: Path) -> str:
    return document.read_text("utf-8")


def fences(document: Path, *languages: str) -> list[str]:
    return [body for language, body in FENCE.findall(text_of(document)) if language in languages]


def without_fences(document: Path) -> str:
    return FENCE.sub("", text_of(document))


# Settings


def test_the_readme_has_every_setting_and_no_other() -> None:
    told = [name for name, _, _ in SETTING_ROW.findall(text_of(README))]
    assert sorted(told) == sorted(map(variable_of, Settings.model_fields))


@pytest.mark.parametrize("document", [*DOCUMENTS, *EXAMPLES], ids=lambda path: path.name)
def test_documents_name_settings_that_exist(document: Path) -> None:
    known = set(map(variable_of, Settings.model_fields))
    assert set(VARIABLE.findall(text_of(document))) <= known


def test_the_readme_tells_the_defaults_and_the_choices() -> None:
    rows = {name: (default, meaning) for name, default, meaning in SETTING_ROW.findall(text_of(README))}
    fields = Settings.model_fields
    for name in ("embedding_backend", "embedding_timeout", "log_level"):
        assert rows[variable_of(name)][0] == f"`{fields[name].default}`"
    for name in ("starter_rules", "embedding_backup", "query_cache"):
        assert fields[name].default is (rows[variable_of(name)][0] == "`1`")
    for name, choices in (("EMBEDDING_BACKEND", EmbeddingBackend), ("LOG_LEVEL", LogLevel)):
        named = set(re.findall(r"`([a-z]+)`", rows[f"SYMMETRA_{name}"][1]))
        assert named == set(get_args(choices))


# Commands


def test_the_readmes_first_command_searches_and_the_second_runs_the_tests() -> None:
    commands = runpy.run_path(str(REPOSITORY / "tools" / "readme_commands.py"))["commands"]()
    assert list(commands) == ["run", "test"]
    assert "symmetra-mcp search " in commands["run"]
    assert "python -m pytest" in commands["test"]


def invocations(script: str) -> Iterator[list[str]]:
    """Arguments of each `symmetra-mcp` in a shell script."""
    for line in script.splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if set(word) <= set("|&;"):
                if words[:1] == ["symmetra-mcp"]:
                    yield words[1:]
                words = []
            else:
                words.append(word)


def parse(arguments: list[str]) -> None:
    """Read arguments as the command line does, running nothing."""
    command: click.Command = cli
    path = "symmetra-mcp"
    rest = list(arguments)
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        name = rest.pop(0)
        assert name in command.commands, f"{path} has no command {name!r}"
        command, path = command.commands[name], f"{path} {name}"
    if not isinstance(command, click.Group) or rest:
        command.make_context(path, rest)


def documented_commands() -> list[tuple[str, list[str]]]:
    found = []
    for document in DOCUMENTS:
        found += [(document.name, args) for script in fences(document, "bash") for args in invocations(script)]
    for document in (README, *GUIDES):
        for code in re.findall(r"`(symmetra-mcp [^`]+)`", without_fences(document)):
            found += [(document.name, args) for args in invocations(code)]
    return found


@pytest.mark.parametrize(
    ("document", "arguments"), documented_commands(), ids=lambda value: value if isinstance(value, str) else None
)
def test_documented_commands_parse(document: str, arguments: list[str]) -> None:
    try:
        parse(arguments)
    except click.MissingParameter:
        assert len(arguments) <= 2, arguments  # a command that is only named, as in "`symmetra-mcp search`"


def test_an_example_of_every_command_parses() -> None:
    def groups(command: click.Command) -> Iterator[click.Command]:
        yield command
        for child in command.commands.values() if isinstance(command, click.Group) else ():
            yield from groups(child)

    shown = [args for command in groups(cli) for args in invocations((command.epilog or "").replace("\b", ""))]
    assert len(shown) > len(cli.commands)
    for arguments in shown:
        parse(arguments)


def test_a_command_that_does_not_exist_would_be_found() -> None:
    with pytest.raises(AssertionError, match="no command 'delete'"):
        parse(["delete", "x"])
    with pytest.raises(click.UsageError):
        parse(["search", "x", "--unknown"])
    assert list(invocations('cd x && symmetra-mcp search "a | b" --file c.py # why')) == [
        ["search", "a | b", "--file", "c.py"]
    ]


def test_the_changelog_names_every_command_and_tool() -> None:
    text = text_of(CHANGELOG)
    (listed,) = re.findall(r"`symmetra-mcp (\w+(?: \| \w+)+)`", text)
    assert set(listed.split(" | ")) == set(cli.commands) - {"serve"}
    for document in (README, CHANGELOG):
        for name in ("search_rules", "embed_text", "health_check", "reembed_all", "review_code"):
            assert f"`{name}`" in text_of(document)


@each_document
def test_json_in_documents_is_json(document: Path) -> None:
    for block in fences(document, "json"):
        json.loads(block)


# Links, numbers, versions


def anchors(document: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", without_fences(document), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_document
def test_relative_links_resolve(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", without_fences(document)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        place = (document.parent / path).resolve() if path else document
        assert place.exists(), target
        assert place.is_relative_to(REPOSITORY), target
        assert not anchor or anchor in anchors(place), target


@each_document
def test_named_files_of_the_repository_exist(document: Path) -> None:
    named = re.findall(
        r"`((?:symmetra_mcp|tools|tests|docs|examples|benchmarks)/(?:[\w./-]+\.\w+)?)`", text_of(document)
    )
    assert [path for path in named if not (REPOSITORY / path).exists()] == []


@pytest.mark.parametrize("document", GUIDES, ids=lambda path: path.name)
def test_lines_are_short(document: Path) -> None:
    assert [line for line in text_of(document).splitlines() if len(line) > 125] == []


def test_the_number_of_starter_rules_is_told_right() -> None:
    number = sum(len(file.statements) for file in read_files(starter_files(), root=FOLDER.parent).parsed)
    for document in (README, CHANGELOG):
        assert re.findall(r"(\d+) starter rules", text_of(document)) == [str(number)], document.name


def test_the_readme_names_the_categories_of_the_starter_rules() -> None:
    (listed,) = re.findall(r"starter rules \(([^)]+)\)", text_of(README))
    assert sorted(re.split(r",\s+", listed)) == [path.stem for path in starter_files()]


def test_versions_agree() -> None:
    project = tomllib.loads(text_of(REPOSITORY / "pyproject.toml"))
    assert project["tool"]["hatch"]["version"]["path"] == "symmetra_mcp/__init__.py"
    assert project["project"]["dynamic"] == ["version"]
    assert CliRunner().invoke(cli, ["--version"]).output == f"symmetra-mcp {symmetra_mcp.__version__}\n"
    newest = re.findall(r"^## \[?([\w.]+)", text_of(CHANGELOG), re.MULTILINE)[0]
    assert newest in ("Unreleased", symmetra_mcp.__version__)
    oldest_python = project["project"]["requires-python"].removeprefix(">=")
    assert f"Python {oldest_python} or newer" in text_of(README)


# docs/architecture.md


def documented_modules() -> list[str]:
    (table,) = re.findall(r"<!-- modules -->\n(.*?)<!-- end of modules -->", text_of(ARCHITECTURE), re.DOTALL)
    names = re.findall(r"^\| `([\w.]+)` \|", table, re.MULTILINE)
    return [name if name == "symmetra_mcp" else f"symmetra_mcp.{name}" for name in names]


def module_files() -> dict[str, Path]:
    """Every module that holds code; packages whose `__init__` has only a docstring are not counted."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")
        if name == "symmetra_mcp" or len(ast.parse(text_of(path)).body) > 1:
            found[name] = path
    return found


def imports_of(path: Path, modules: dict[str, Path]) -> set[str]:
    """Our modules that a file imports: at its top, inside functions, and for type checkers."""
    found = set()
    for node in ast.walk(ast.parse(text_of(path))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path.name} imports relatively"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in modules else node.module or "")
    return {name for name in found if name.split(".")[0] == "symmetra_mcp"}


def test_the_architecture_names_every_module_once() -> None:
    assert sorted(documented_modules()) == sorted(module_files())


def test_imports_point_upward_in_the_list_of_modules() -> None:
    order = {name: number for number, name in enumerate(documented_modules())}
    modules = module_files()
    wrong = [
        f"{name} imports {imported}"
        for name, path in modules.items()
        for imported in imports_of(path, modules)
        if order.get(imported, len(order)) >= order.get(name, -1)
    ]
    assert wrong == []


@pytest.mark.parametrize("document", [ARCHITECTURE, RULE_FILES], ids=lambda path: path.name)
def test_documented_constants_have_their_values(document: Path) -> None:
    rows = [(name, value) for name, value in re.findall(r"^\| `([\w.]+)` \| ([\d.,]+) \|", text_of(document), re.M)]
    rows += [
        (name, value)
        for value, name in re.findall(r"^\| [^|]*?: ([\d,]+)[^|]* \| `([\w.]+)` \|$", text_of(document), re.M)
    ]
    assert len(rows) >= 6
    for name, value in rows:
        module, _, constant = name.rpartition(".")
        actual = getattr(importlib.import_module(f"symmetra_mcp.{module}"), constant)
        assert float(value.replace(",", "")) == actual, name


def test_names_in_the_architecture_exist() -> None:
    """`module.name` in backticks is something that the module holds."""
    modules = {name.removeprefix("symmetra_mcp.") for name in module_files()}
    checked = 0
    for name in re.findall(r"`([a-z_][\w.]*\.\w+)`", without_fences(ARCHITECTURE)):
        module, _, attribute = name.rpartition(".")
        if module in modules and name not in modules:
            assert hasattr(importlib.import_module(f"symmetra_mcp.{module}"), attribute), name
            checked += 1
    assert checked


# docs/rule-files.md


def own_form_example() -> str:
    (block,) = re.findall(r"<!-- example: own form -->\n```yaml\n(.*?)^```$", text_of(RULE_FILES), re.DOTALL | re.M)
    return str(block)


def test_every_dialect_is_described() -> None:
    listed = re.findall(r"^\| `([a-z-]+)` \| [^|]+ \| [^|]+ \|$", text_of(RULE_FILES).split("\n## Where")[0], re.M)
    assert sorted(listed) == sorted(dialect.name for dialect in (*DIALECTS, MARKDOWN))


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (".symmetra/rules/security/keys.md", "native"),
        ("symmetra-rules.jsonl", "native"),
        (".cursor/rules/web/react.mdc", "cursor-mdc"),
        ("rules/react.mdc", "cursor-mdc"),
        ("packages/web/AGENTS.md", "agents-md"),
        ("CLAUDE.local.md", "claude-md"),
        (".github/instructions/python.instructions.md", "copilot-instructions"),
        (".clinerules/style.txt", "cline-rules"),
        (".clinerules/workflows/release.md", ""),
        (".roo/rules-code/style.xml", "roo-rules"),
        (".roorules-code", "roorules"),
        ("README.md", ""),
    ],
)
def test_paths_belong_to_the_dialect_that_the_table_says(path: str, name: str) -> None:
    dialect = dialect_of(path)
    assert (dialect.name if dialect else "") == name


def test_the_own_form_example_is_the_example_file_and_reads_without_a_warning() -> None:
    example = own_form_example()
    assert example == text_of(REPOSITORY / "examples" / "team-rules.yaml")
    parsed = parse_native("team-rules.yaml", Decoded(example))
    assert (parsed.warnings, parsed.complete, parsed.note) == ((), True, "")
    first = parsed.statements[0]
    assert first.rule_id == "money-in-cents"
    assert first.sources[0].scope.globs == ("src/payments/**", "src/orders/**", "!**/*_test.py")
    assert parsed.statements[-1].keywords == ("wording", "dialog", "validation")
    assert parsed.statements[-1].rationale.startswith("Support answers")


@pytest.mark.parametrize("format_", FORMATS)
def test_the_own_form_example_comes_back_from_an_export(format_: str) -> None:
    def told(rules: list[Rule]) -> list[tuple[Rule, object]]:
        return [(replace(rule, sources=()), rule.scopes) for rule in rules]

    rules = read_rules(own_form_example(), "yaml", project_id="shop")
    again = read_rules(dump_rules(rules, format_), format_, project_id="shop")  # type: ignore[arg-type]
    assert told(again) == told(rules)


def test_every_key_and_alias_of_the_own_form_is_described() -> None:
    from symmetra_mcp.ingest import native

    table = text_of(RULE_FILES).split("| key | also |")[1].split("\n\n")[0]
    keys = {f"`{key}`" for key in (*native._FIELDS, *native._ALIASES)} | {"`alwaysApply`"}
    assert {key for key in keys if key not in table} == set()


# docs/providers.md


def test_the_prices_are_those_of_the_table() -> None:
    text = text_of(PROVIDERS)
    told = re.findall(r"^\| `(\w+)/([\w.-]+)` \| ([\d.]+) \| <(\S+)> \|$", text, re.MULTILINE)
    assert told == [(*key, f"{price.usd_per_million_tokens:.2f}", price.source) for key, price in PRICES.items()]
    assert re.findall(r"as read on ([\d-]+)", text) == sorted({price.read.isoformat() for price in PRICES.values()})


def test_the_models_and_lengths_are_those_of_the_vendors_modules() -> None:
    text = text_of(PROVIDERS)
    rows = re.findall(r"^\| `(embed-[\w.-]+)`[^|]* \| ([\d, ]+) \| ([\d,]+) \|$", text, re.MULTILINE)
    assert {model: tuple(map(int, lengths.split(", "))) for model, lengths, _ in rows} == DIMENSIONS
    for model, _, tokens in rows:
        assert int(tokens.replace(",", "")) == CohereProvider("key", model=model).max_input_tokens
    (known,) = re.findall(r"length of the vectors is known for (.*?) by these names", text, re.DOTALL)
    assert re.findall(r"`([\w-]+)`", known) == list(OTHER_DIMENSIONS)
    assert f"{OTHER_MAX_TEXTS} texts or {OTHER_MAX_REQUEST_TOKENS:,} tokens" in text


def test_the_settings_of_each_server_make_a_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    scripts = [script for script in fences(PROVIDERS, "bash") if "OPENAI_BASE_URL" in script]
    assert len(scripts) == 5
    for script in scripts:
        with monkeypatch.context() as environment:
            for name, value in re.findall(r"^export (\w+)=(.*)$", script, re.MULTILINE):
                environment.setenv(name, value)
            space = select_providers(load_settings()).chosen.space
        assert (space.provider, bool(space.variant)) == ("openai", True), script


# examples/


def test_there_are_examples() -> None:
    assert [path.name for path in EXAMPLES] == ["mcp_client.py", "older_names.py", "search_from_python.py"]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_short_and_says_what_it_is(example: Path) -> None:
    text = text_of(example)
    assert len(text.splitlines()) < 60
    assert ast.get_docstring(ast.parse(text))


@pytest.mark.parametrize(
    ("name", "expected", "with_data_dir"),
    [
        ("search_from_python.py", "Send every payment with an idempotency key  [high, symmetra-rules.yaml:", True),
        pytest.param(
            "search_from_python.py",
            "Send every payment with an idempotency key  [high, symmetra-rules.yaml:",
            False,
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "mcp_client.py",
            "Always add a database column as nullable first, fill it in batches, and only then make it",
            True,
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "older_names.py",
            "local embeds with all-MiniLM-L6-v2, 384 numbers a text",
            True,
            marks=pytest.mark.slow,
        ),
    ],
    ids=[
        "search, data folder given",
        "search, data folder of its own",
        "client, data folder given",
        "older names, data folder given",
    ],
)
def test_an_example_runs_in_an_empty_environment(name: str, expected: str, with_data_dir: bool, tmp_path: Path) -> None:
    home, work, data = (tmp_path / folder for folder in ("home", "work", "data"))
    home.mkdir()
    work.mkdir()
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(home)}
    if with_data_dir:
        environment["SYMMETRA_DATA_DIR"] = str(data)
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "examples" / name)],
        env=environment,
        cwd=work,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout
    assert (data / "symmetra.db").exists() is with_data_dir
    assert list(work.iterdir()) == []
    assert set(home.iterdir()) == set()
