"""Runs both local engines over the same texts, where sentence-transformers is installed: see test_two_local_engines.py.

Writes what it measured to a file, so that whatever reaches the standard streams came from a library.
"""

import asyncio
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from symmetra_mcp.errors import ProviderUnavailableError
from symmetra_mcp.providers.base import EmbeddingProvider
from symmetra_mcp.providers.local import LocalProvider
from symmetra_mcp.providers.sentence_transformers import SentenceTransformersProvider

COMMIT = "1110a243fdf4706b3f48f1d95db1a4f5529b4d41"
NAMED = "sentence-transformers/all-MiniLM-L6-v2"


def documents(provider: EmbeddingProvider, texts: Sequence[str]) -> NDArray[np.float32]:
    return asyncio.run(provider.embed_documents(texts)).vectors


def queries(provider: EmbeddingProvider, texts: Sequence[str]) -> NDArray[np.float32]:
    async def one_by_one() -> NDArray[np.float32]:
        return np.concatenate([(await provider.embed_query(text)).vectors for text in texts])

    return asyncio.run(one_by_one())


def compare(folder: Path, texts: Sequence[str], questions: Sequence[str]) -> dict[str, Any]:
    """Cosines between the engines' vectors, and how far their five nearest documents to each question are the same."""
    exact, bundled = SentenceTransformersProvider(str(folder)), LocalProvider()
    told = exact.space
    pairs = [(documents(p, texts), queries(p, questions)) for p in (exact, bundled)]
    cosines = np.concatenate([np.sum(left * right, axis=1) for left, right in zip(*pairs, strict=True)])
    nearest = [np.argsort(-(asked @ stored.T), axis=1)[:, :5] for stored, asked in pairs]
    return {
        "min_cosine": float(cosines.min()),
        "mean_cosine": float(cosines.mean()),
        "top5_overlap": float(np.mean([len({*a} & {*b}) / 5 for a, b in zip(*nearest, strict=True)])),
        "top1_agreement": float(np.mean(nearest[0][:, 0] == nearest[1][:, 0])),
        "space_before_loading": str(told),
        "space": str(exact.space),
        "bundled_space": str(LocalProvider().space),
        "max_input_tokens": exact.max_input_tokens,
    }


def linked(folder: Path, copy: Path) -> Path:
    """A second folder of the same model, without a second copy of its weights."""
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("model.safetensors"))
    (copy / "model.safetensors").symlink_to(folder / "model.safetensors")
    return copy


def prompt_cosines(folder: Path, place: Path) -> dict[str, float]:
    """Cosines between a text with the model's own prompts for each side, and the prompt written out before the text."""
    tuned = linked(folder, place / "tuned")
    config = {"prompts": {"query": "question: ", "document": "rule: "}}
    (tuned / "config_sentence_transformers.json").write_text(json.dumps(config), "utf-8")
    plain, prompted = SentenceTransformersProvider(str(folder)), SentenceTransformersProvider(str(tuned))
    text = "roll back a failed migration"
    return {
        "query": float(queries(prompted, [text])[0] @ queries(plain, ["question: " + text])[0]),
        "document": float(documents(prompted, [text])[0] @ documents(plain, ["rule: " + text])[0]),
        "sides": float(queries(prompted, [text])[0] @ documents(prompted, [text])[0]),
    }


def static_model(folder: Path, place: Path) -> str:
    """A model without a network, which makes nothing of an empty text and does not state its dimensions."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    module = StaticEmbedding(tokenizer, embedding_dim=16)
    SentenceTransformer(modules=[module]).save(str(place / "static"))
    provider = SentenceTransformersProvider(str(place / "static"))
    lengths = np.linalg.norm(documents(provider, ["", "\x00\x07", "a rule"]), axis=1)
    return f"{provider.space.model}@{provider.space.dimensions} {lengths.round(4).tolist()}"


def cached_model(folder: Path, cache: Path) -> dict[str, str]:
    """Named models offline: one in the cache, one that is not."""
    repository = cache / f"models--{NAMED.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    (repository / "snapshots").mkdir()
    linked(folder, repository / "snapshots" / COMMIT)
    provider = SentenceTransformersProvider("all-MiniLM-L6-v2")
    cosine = queries(provider, ["a"])[0] @ queries(SentenceTransformersProvider(str(folder)), ["a"])[0]
    try:
        asyncio.run(SentenceTransformersProvider("owner/never-downloaded").warm_up())
    except ProviderUnavailableError as error:
        return {"space": str(provider.space), "cosine": f"{cosine:.4f}", "missing": str(error)}
    raise AssertionError("a model that is not there was loaded")


def main(arguments: Sequence[str]) -> None:
    folder, place, texts, cache, result = (Path(argument).resolve() for argument in arguments)
    given = json.loads(texts.read_text("utf-8"))
    measured = {
        "engines": compare(folder, given["documents"], given["queries"]),
        "prompts": prompt_cosines(folder, place),
        "cached": cached_model(folder, cache),
        "static": static_model(folder, place),
    }
    result.write_text(json.dumps(measured), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
