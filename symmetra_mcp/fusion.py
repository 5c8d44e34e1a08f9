"""How meaning and words become one score.

Scores are fused, not ranks: a rank fusion can't see that one of the two lists is poor for this query. Cosines are
stretched between the best and the hundredth, BM25 is divided by the best.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MEANING_WEIGHT = 0.6
"""Share of meaning in a hybrid score, the rest is words. With the second look (`rescoring`), which compares letters, it
is best on nearly every choice of five of the labelled set's eight sources; between 0.5 and 0.7 little changes."""
DEPTH = 100
"""Rules by cosine between which the scale of meaning is stretched."""
STACK_PREFERENCE = 0.1
"""Added to a rule of the tech stack at hand, taken from one of other stacks alone: it decides where rules fit about as
well."""
PROJECT_PREFERENCE = 0.25
"""Added to a rule of the team's own: one from elsewhere has to fit clearly better to go first."""


def fuse(similarities: NDArray[np.float32] | None, word_scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Fuse the scores of the rules that passed the filters.

    Args:
        similarities: Cosines, shape `(n,)`; `-inf` for a rule that has no vector yet. `None` for words only.
        word_scores: BM25, shape `(n,)`, 0 where no word matches.

    Returns:
        Relevance, shape `(n,)`, float32, 0 to 1, the higher the better; comparable inside one query only.
    """
    import numpy as np

    best = float(word_scores.max(initial=0))
    words = word_scores / best if best > 0 else np.zeros_like(word_scores)
    fused = words if similarities is None else MEANING_WEIGHT * _stretched(similarities) + (1 - MEANING_WEIGHT) * words
    return np.asarray(fused, np.float32)


def prefer(
    relevance: NDArray[np.float32], preferences: Sequence[tuple[NDArray[np.bool_], float]]
) -> NDArray[np.float32]:
    """Relevance plus, for each reason to prefer some rules, a weight for those: what rules are ordered by."""
    import numpy as np

    scores = relevance.copy()
    for preferred, weight in preferences:
        scores += np.float32(weight) * preferred
    return scores


def _stretched(similarities: NDArray[np.float32]) -> NDArray[np.float32]:
    import numpy as np

    if not len(similarities):
        return similarities
    depth = min(DEPTH, len(similarities))
    top = np.partition(similarities, len(similarities) - depth)[-depth:]
    top = top[np.isfinite(top)]
    if not len(top):
        return np.zeros_like(similarities)
    lowest, highest = float(top.min()), float(top.max())
    if depth < DEPTH:
        lowest = min(lowest, 0.0)  # few rules: the worst of them is not worth nothing for being the worst
    scaled = (np.maximum(similarities, lowest) - lowest) / max(highest - lowest, 1e-6)
    return np.asarray(scaled, np.float32)
