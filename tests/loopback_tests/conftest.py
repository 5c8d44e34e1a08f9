from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict

import cohere
import httpx
import openai
import pytest
from loopback import LoopbackVendor, Settings

KEY = "sk-loopback-0123456789-abcd"
Post = Callable[..., httpx.Response]


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture(scope="session")
def running() -> Iterator[LoopbackVendor]:
    """One for all: a vendor starts at once, but its clients read the system's certificates."""
    with LoopbackVendor() as vendor:
        yield vendor


@pytest.fixture
def vendor(running: LoopbackVendor) -> LoopbackVendor:
    running.configure(**asdict(Settings()))
    running.reset()
    return running


@pytest.fixture(scope="session")
def openai_of_all(running: LoopbackVendor) -> Iterator[openai.OpenAI]:
    http = openai.DefaultHttpxClient(trust_env=False)
    with openai.OpenAI(api_key=KEY, base_url=running.openai_base_url, max_retries=0, http_client=http) as client:
        yield client


@pytest.fixture
def openai_client(vendor: LoopbackVendor, openai_of_all: openai.OpenAI) -> openai.OpenAI:
    return openai_of_all


@pytest.fixture(scope="session")
def http_of_all() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False, timeout=5) as http:
        yield http


@pytest.fixture
def cohere_client(vendor: LoopbackVendor, http_of_all: httpx.Client) -> cohere.ClientV2:
    return cohere.ClientV2(KEY, base_url=vendor.cohere_base_url, httpx_client=http_of_all, max_retries=0)


@pytest.fixture
def post(vendor: LoopbackVendor, http_of_all: httpx.Client) -> Post:
    """Sends a JSON body with the key, or with other headers."""

    def send(path: str, body: object, *, follow_redirects: bool = False, **headers: str) -> httpx.Response:
        sent = {"authorization": f"Bearer {KEY}", **headers}
        return http_of_all.post(
            f"{vendor.url}{path}", content=json.dumps(body), headers=sent, follow_redirects=follow_redirects
        )

    return send
