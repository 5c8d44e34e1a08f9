"""Words of prose and code as search terms, and BM25 over them.

Identifiers count whole and in parts (`useEffect`, `use`, `effect`), so do dotted names (`os.path`); operators (`===`)
and dunder names count as written, English words by their stem, and runs of Chinese, Japanese or Korean characters by
pairs, as those scripts put no blanks between words. A term is kept as a 64-bit hash, so an index needs no vocabulary
table and two processes agree without talking to each other.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import snowballstemmer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TERMS_VERSION = 2
"""Raised when `terms` changes its answer, so that stores know which terms they keep."""

K1 = 1.2
"""BM25's usual constant (Robertson and Zaragoza, 2009, section 3.5)."""
B = 0.5
"""How much the length of a field counts, 0 to 1 (section 3.6, BM25F), when its terms are counted."""

MAX_QUERY_TERMS = 256
"""Distinct words of a query that are looked up: a pasted file adds nothing after that."""
_TOKEN = re.compile(
    r"(?P<dotted>[^\W\d]\w*(?:(?:\.|::)[^\W\d]\w*)+)"
    r"|(?P<operator>[!=]==?|[-=]>|\+\+|--|&&|\|\||\?\?|\?\.|\*\*|:=|<<|>>|::|[-+*/<>]=|\.\.\.)"
    r"|\w+"
)
_DUNDER = re.compile(r"__\w+?__")
_WORD = re.compile(r"[^\W_]+(?:_+[^\W_]+)*")
_PART = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+|[^\W\d_a-zA-Z]+")
_UNSPACED = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff]+")
_STOP_WORDS = frozenset(
    """a about after all also am an and any are as at be because been before being between both but by can could did do
    does doing down during each few for from further had has have having he her here hers him his how i if in into is it
    its itself just me more most my myself no nor not now of off on once only or other our ours out over own same she
    should so some such than that the their theirs them then there these they this those through to too under until up
    very was we were what when where which while who whom why will with would you your yours""".split()  # noqa: SIM905 - as a list it would be a hundred lines
)
_CACHE_SIZE = 200_000
_LONGEST_STEMMED = 64
"""No word of English is longer, and the stemmer takes minutes over a megabyte of `y`."""

_stemmer = snowballstemmer.stemmer("english")
_stems: dict[str, str] = {}
_hashes: dict[str, int] = {}


def terms(text: str) -> list[str]:
    """Split a text into search terms, in order, with repeats.

    Returns:
        Stemmed lower-case terms without stop words; an identifier or dotted name gives itself and its
        parts, an operator and a dunder name itself.
    """
    return [term for term, _ in _terms_and_words(text)]


def query_terms(text: str, limit: int) -> dict[str, str]:
    """The first distinct search terms of a query, in order, each with the word that it stands for."""
    found: dict[str, str] = {}
    for term, word in _terms_and_words(text):
        if len(found) == limit:
            break
        found.setdefault(term, word)
    return found


def term_hash(term: str) -> int:
    """The 64-bit hash that stands for a term in an index."""
    cached = _hashes.get(term)
    if cached is None:
        if len(_hashes) >= _CACHE_SIZE:
            _hashes.clear()
        digest = hashlib.blake2b(term.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        cached = _hashes[term] = int.from_bytes(digest, "little")
    return cached


def signed_hash(term: str) -> int:
    """`term_hash` as databases keep it: the same 64 bits, read as a signed number."""
    number = term_hash(term)
    return number - (1 << 64) if number >> 63 else number


def _terms_and_words(text: str) -> Iterator[tuple[str, str]]:
    """Each term of a text with the word that it stands for."""
    for match in _TOKEN.finditer(text):
        written = match.group()
        if match["operator"]:
            yield written, written
            continue
        if match["dotted"]:
            yield written.lower().replace("::", "."), written
        for word in _WORD.findall(written):
            for term in _terms_of(word):
                yield term, word
        for name in _DUNDER.findall(written):
            yield name, name


def _terms_of(word: str) -> Iterable[str]:
    if word.isascii():
        if word.islower() and "_" not in word:
            return () if word in _STOP_WORDS else (_stem(word),)
        return _terms_of_identifier(word)
    runs = _UNSPACED.findall(word)
    if not runs:
        return [_stem(part) for part in word.lower().split("_") if part and part not in _STOP_WORDS]
    pairs = [run[i : i + 2] for run in runs for i in range(max(1, len(run) - 1))]
    rest = [part for part in _UNSPACED.split(word) if part.strip("_")]
    return [*pairs, *(term for part in rest for term in _terms_of(part))]


def _terms_of_identifier(word: str) -> list[str]:
    whole = word.lower()
    parts = [part.lower() for part in _PART.findall(word)]
    if len(parts) < 2:
        return [] if whole in _STOP_WORDS else [_stem(whole)]
    return [whole, *(_stem(part) for part in parts if part not in _STOP_WORDS)]


def _stem(word: str) -> str:
    if len(word) > _LONGEST_STEMMED:
        return word
    cached = _stems.get(word)
    if cached is None:
        if len(_stems) >= _CACHE_SIZE:
            _stems.clear()
        cached = _stems[word] = str(_stemmer.stemWord(word))
    return cached


@dataclass(frozen=True, slots=True)
class TermCounts:
    """The terms of one rule, each once.

    Attributes:
        hashes: Shape `(n,)`, uint64, ascending.
        counts: Shape `(n,)`, float32: occurrences, weighted by the field they stand in.
    """

    hashes: NDArray[np.uint64]
    counts: NDArray[np.float32]

    def to_bytes(self) -> bytes:
        """For a database column: all hashes, then all counts, little-endian."""
        return self.hashes.astype("<u8").tobytes() + self.counts.astype("<f4").tobytes()

    @classmethod
    def from_bytes(cls, blob: bytes) -> TermCounts:
        """Read what `to_bytes` wrote."""
        import numpy as np

        count = len(blob) // 12
        return cls(np.frombuffer(blob, "<u8", count), np.frombuffer(blob, "<f4", count, offset=8 * count))


class Field(NamedTuple):
    """A text of a rule.

    Attributes:
        weight: Of one occurrence in it.
        usual_terms: Length at which an occurrence has this weight; 0 where the length does not count.
    """

    text: str
    weight: float
    usual_terms: int = 0


def count_terms(fields: Iterable[Field]) -> TermCounts:
    """Count the terms of a rule's fields."""
    import numpy as np

    totals: Counter[int] = Counter()
    for text, weight, usual_terms in fields:
        found = terms(text)
        length = len(found) / usual_terms if usual_terms else 1.0
        counted = weight / (1 - B + B * length)
        for term in found:
            totals[term_hash(term)] += counted  # type: ignore[assignment]  # Counter's stub knows whole numbers only
    hashes = np.fromiter(totals.keys(), np.uint64, len(totals))
    counts = np.fromiter(totals.values(), np.float32, len(totals))
    order = np.argsort(hashes)
    return TermCounts(hashes[order], counts[order])


class Bm25:
    """BM25 over a fixed set of rules, every score at once.

    Impacts are worked out when the index is built, so a query only adds up the postings of its terms.
    """

    def __init__(self, documents: Sequence[bytes]) -> None:
        """Index rules by their position in `documents`.

        Args:
            documents: One `TermCounts.to_bytes` a rule.
        """
        import numpy as np

        sizes = np.fromiter((len(blob) // 12 for blob in documents), np.int64, len(documents))
        hashes = np.frombuffer(b"".join(blob[: 8 * (len(blob) // 12)] for blob in documents), "<u8")
        counts = np.frombuffer(b"".join(blob[8 * (len(blob) // 12) :] for blob in documents), "<f4")
        rules = np.repeat(np.arange(len(documents), dtype=np.int32), sizes)
        order = np.argsort(hashes, kind="stable")
        self._size = len(documents)
        self._vocabulary, starts = np.unique(hashes[order], return_index=True)
        self._starts = np.append(starts, len(hashes)).astype(np.int64)
        self._rules = rules[order]
        self._impacts = self._impacts_of(counts[order])

    def _impacts_of(self, counts: NDArray[np.float32]) -> NDArray[np.float32]:
        import numpy as np

        if not self._size or not len(counts):
            return np.empty(0, np.float32)
        frequency = np.diff(self._starts)
        idf = np.log1p((self._size - frequency + 0.5) / (frequency + 0.5))
        impacts = np.repeat(idf, frequency) * counts * (K1 + 1) / (counts + K1)
        return np.asarray(impacts, np.float32)

    def _postings(self, term: str) -> slice:
        import numpy as np

        hashed = np.uint64(term_hash(term))
        position = int(np.searchsorted(self._vocabulary, hashed))
        if position == len(self._vocabulary) or self._vocabulary[position] != hashed:
            return slice(0, 0)
        return slice(int(self._starts[position]), int(self._starts[position + 1]))

    def scores(self, wanted: Iterable[str]) -> tuple[NDArray[np.float32], float]:
        """Score every rule for a query's distinct terms.

        Returns:
            Scores of shape `(rules,)`, float32, 0 where no term matches; and the highest score that the query
            could reach: the sum of each term's greatest impact.
        """
        import numpy as np

        totals = np.zeros(self._size, np.float32)
        bound = 0.0
        for term in wanted:
            postings = self._postings(term)
            if postings.stop > postings.start:
                impacts = self._impacts[postings]
                totals[self._rules[postings]] += impacts
                bound += float(impacts.max())
        return totals, bound

    def matched(self, wanted: Iterable[str], rules: Sequence[int]) -> list[tuple[str, ...]]:
        """Which of a query's distinct terms each of some rules holds, the weightiest first."""
        import numpy as np

        asked = np.asarray(rules, np.int32)
        found: list[list[tuple[float, str]]] = [[] for _ in rules]
        for term in wanted:
            postings = self._postings(term)
            if postings.stop == postings.start:
                continue
            holding = self._rules[postings]
            places = np.searchsorted(holding, asked).clip(max=len(holding) - 1)
            for which in np.flatnonzero(holding[places] == asked):
                found[which].append((-float(self._impacts[postings][places[which]]), term))
        return [tuple(term for _, term in sorted(each)) for each in found]
