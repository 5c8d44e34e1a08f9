"""A cross-encoder of random numbers, as small as one can be, and what it scores: see test_two_local_engines.py.

Its order means nothing; that it comes out of the real library and is passed on as it is, is what is tested.
"""

import asyncio
import json
import sys
from pathlib import Path

from symmetra_mcp.errors import ProviderError
from symmetra_mcp.rerankers.local import LocalReranker

QUERY = "where do secrets belong"
DOCUMENTS = ["In a vault.", "", "Name migrations after what they change. " * 40, "x\ud800y", "Pin dependencies."] * 4


def make(folder: Path) -> None:
    """`tiny`, with one output, and `untrained`, a network without any."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertModel, BertTokenizerFast

    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    (folder / "vocab.txt").write_text("\n".join(words), "utf-8")
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        num_labels=1,
        initializer_range=1.0,
    )
    for name, network in (("tiny", BertForSequenceClassification), ("untrained", BertModel)):
        BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=128).save_pretrained(folder / name)
        network(config).save_pretrained(folder / name)


async def compare(folder: Path) -> None:
    reranker = LocalReranker(str(folder / "tiny"), timeout_s=60)
    ours = await reranker.rerank(QUERY, DOCUMENTS)
    try:
        untrained = str(await LocalReranker(str(folder / "untrained"), timeout_s=60).rerank(QUERY, DOCUMENTS))
    except ProviderError as exc:
        untrained = str(exc)

    from sentence_transformers import CrossEncoder

    model = CrossEncoder(str(folder / "tiny"), local_files_only=True)
    pairs = [(QUERY, document.replace("\ud800", "\ufffd")) for document in DOCUMENTS]
    librarys = model.predict(pairs, show_progress_bar=False)
    json.dump({"ours": ours.tolist(), "librarys": librarys.tolist(), "untrained": untrained}, sys.stdout)


if __name__ == "__main__":
    place = Path(sys.argv[2])
    if sys.argv[1] == "make":
        make(place)
    else:
        asyncio.run(compare(place))
