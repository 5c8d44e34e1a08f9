"""What a cosine means in a space: learnt from the rules that are in it, and from questions that no rule is about.

How near texts come to each other differs between models, and between the rules of teams. So two samples are taken when
a space is completed. Unrelated questions (`probes`) have a best cosine each: what chance brings up. And each of some
rules has a nearest other one: what texts about one subject reach. A rule applies from the cosine on that is as unusual
for a chance as it is for a relative, counted in standard deviations of either sample.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

from symmetra_mcp.errors import SpaceMismatchError, StoreError
from symmetra_mcp.probes import QUANTILE, probe_passages

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from symmetra_mcp.spaces import EmbeddingSpace
    from symmetra_mcp.stores.base import RuleStore

Confidence = Literal["high", "medium", "low"]
"""How sure a hit is: as near as relatives are; nearer than chance; found by its words."""

_SAMPLE = 128
"""Rules' texts that are looked at: content hashes are evenly spread, so the first of them are a fair sample."""
_FEWEST = 24
"""Texts below which nothing is learnt of relatives."""
_CHANGED = 0.1
"""Share of the texts that must have come or gone before it is learnt again."""
_READ_AGAIN_S = 60.0
_LOOK_AGAIN_S = 5.0
"""How long a calibration counts that was read, and how long it counts that there was none."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """What cosines mean in one space.

    Attributes:
        margin: How much nearer than `Matches.background` a rule must be to apply.
        related: Cosine that five in six rules reach with their nearest relative.
        texts: How many texts the rules had.
    """

    margin: float
    related: float
    texts: int

    def confidence(self, similarity: float | None, threshold: float | None) -> Confidence:
        """The word for a hit of this similarity, where rules apply from `threshold` on."""
        if similarity is None or (threshold is not None and similarity < threshold):
            return "low"
        return "high" if similarity >= self.related else "medium"


UNCALIBRATED = Calibration(0.0, 1.0, 0)
"""Nothing is known but the background; no hit is called sure."""


async def calibrate(store: RuleStore, space: EmbeddingSpace, texts: int) -> None:
    """Learn what cosines mean in a complete space, and keep it with the space, unless that was done for these rules.

    Args:
        store: Holds rules, probes and their vectors.
        space: Complete.
        texts: How many texts the rules have.

    Raises:
        StoreError: The store failed.
    """
    known = _decoded(await store.get_note(_note(space)))
    if known is not None and abs(known.texts - texts) <= _CHANGED * known.texts:
        return
    probes = await store.get_vectors(space, [probe.content_hash for probe in probe_passages()])
    sample, _ = await store.missing_passages(space, limit=_SAMPLE, again=True)
    rules = await store.get_vectors(space, [passage.content_hash for passage in sample])
    if not probes or len(rules) < _FEWEST:
        learnt = Calibration(0.0, 1.0, texts)
    else:
        import numpy as np

        try:
            by_chance = await store.nearest(space, np.stack(list(probes.values())), 1)
            relatives = await store.nearest(space, np.stack(list(rules.values())), 2)
        except SpaceMismatchError:  # rules came in meanwhile: whoever completes it learns
            return
        chance = np.array([found[0] for found in by_chance if found])
        related = np.array([found[1] for found in relatives if len(found) > 1])  # the nearest is the rule itself
        learnt = learn(chance, related, texts) if len(chance) and len(related) else Calibration(0.0, 1.0, texts)
    await store.set_note(_note(space), json.dumps(asdict(learnt)))


def learn(chance: NDArray[np.float64], related: NDArray[np.float64], texts: int) -> Calibration:
    """What two samples tell.

    Args:
        chance: Best cosine of each unrelated question, shape `(n,)`.
        related: Cosine of each rule to its nearest other one, shape `(m,)`.
        texts: How many texts the rules have.
    """
    import numpy as np

    background = float(np.quantile(chance, QUANTILE))
    low, high = float(chance.mean()), float(related.mean())
    low_spread, high_spread = max(float(chance.std()), 1e-6), max(float(related.std()), 1e-6)
    between = (low * high_spread + high * low_spread) / (low_spread + high_spread)
    return Calibration(max(between - background, 0.0), max(high - high_spread, background), texts)


class Calibrations:
    """The calibrations of a store's spaces, as it keeps them; read now and then, as a team's store is far away."""

    def __init__(self, store: RuleStore) -> None:
        self._store = store
        self._known: dict[EmbeddingSpace, tuple[float, Calibration]] = {}

    async def of(self, space: EmbeddingSpace | None) -> Calibration:
        """What is known of a space; `UNCALIBRATED` where nothing is, or the store can't be asked."""
        if space is None:
            return UNCALIBRATED
        now = time.monotonic()
        read_at, known = self._known.get(space, (float("-inf"), UNCALIBRATED))
        if now - read_at < (_LOOK_AGAIN_S if known is UNCALIBRATED else _READ_AGAIN_S):
            return known
        try:
            known = _decoded(await self._store.get_note(_note(space))) or UNCALIBRATED
        except StoreError:
            return known  # what was known is better than nothing
        self._known[space] = (now, known)
        return known


def _note(space: EmbeddingSpace) -> str:
    return f"calibration {space.space_id}"


def _decoded(note: str) -> Calibration | None:
    try:
        return Calibration(**json.loads(note))
    except (ValueError, TypeError):
        return None
