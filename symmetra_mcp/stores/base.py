"""What every rule store does, and the questions and answers it exchanges with search."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from symmetra_mcp.passages import Passage
    from symmetra_mcp.providers.base import Embeddings
    from symmetra_mcp.spaces import EmbeddingSpace
    from symmetra_mcp.types import Detail, Priority, Rule, RuleKey


@dataclass(frozen=True, slots=True)
class RuleFilter:
    """Which rules may answer. An empty field lets all through.

    Attributes:
        project_ids: Projects to search.
        excluded_project_ids: Projects to leave out.
        category: Equal, whatever the case.
        min_priority: This priority or a higher one.
        tech_stacks: Rules of one of these, and rules that name none.
        path: File in hand, as `scopes.relative_path` gives it: rules scoped to other files are left out.
    """

    project_ids: tuple[str, ...] = ()
    excluded_project_ids: tuple[str, ...] = ()
    category: str = ""
    min_priority: Priority = "low"
    tech_stacks: tuple[str, ...] = ()
    path: str = ""


@dataclass(frozen=True, slots=True)
class MatchQuery:
    """What to look for.

    Attributes:
        text: Words to match.
        vector: Shape `(space.dimensions,)`, unit length; `None` for words only.
        space: The space of `vector`.
        rule_filter: Which rules may answer.
        preferred_tech_stacks: Breaks near ties in favor of these; none is left out.
        preferred_project_ids: The same for projects.
        limit: How many candidates to return.
    """

    text: str
    vector: NDArray[np.float32] | None = None
    space: EmbeddingSpace | None = None
    rule_filter: RuleFilter = field(default_factory=RuleFilter)
    preferred_tech_stacks: tuple[str, ...] = ()
    preferred_project_ids: tuple[str, ...] = ()
    limit: int = 20


@dataclass(frozen=True, slots=True)
class Candidate:
    """A rule that may answer, with everything it was judged by.

    Attributes:
        score: What it is ordered by: its relevance and what it is preferred by; comparable inside one answer only.
        relevance: Meaning and words fused, 0 to 1, comparable inside one answer only.
        similarity: Cosine of its best passage, -1 to 1; `None` where the rule has no vector.
        words: Words of the query that the rule holds, the weightiest first.
        passage: Text of the best passage, or empty where the rule has one passage only.
        matched_glob: Glob that the file in hand matched; empty when no glob limits the rule.
    """

    rule: Rule
    score: float
    relevance: float
    similarity: float | None
    words: tuple[str, ...]
    passage: str
    matched_glob: str


@dataclass(frozen=True, slots=True)
class Matches:
    """What a store found.

    Attributes:
        candidates: Best first.
        considered: Rules that passed every filter.
        out_of_scope: Rules left out because they are about other files.
        best_similarity: Highest cosine of any considered rule; `None` without vectors.
        background: Cosine to the considered rules that unrelated questions stay below (`probes`); `None` unless known.
        unembedded: Considered rules that could have a vector in the space and have none: found by words alone.
        degraded: Why the answer may be out of date or incomplete, in plain words; empty when it is neither.
    """

    candidates: tuple[Candidate, ...]
    considered: int
    out_of_scope: int = 0
    best_similarity: float | None = None
    background: float | None = None
    unembedded: int = 0
    degraded: str = ""


@dataclass(frozen=True, slots=True)
class SpaceStatus:
    """How complete a space is.

    Attributes:
        passages: Distinct texts that the rules need embedded.
        missing: How many of them have no vector in this space and could have one.
        refused: How many of them its provider does not take.
        left_at: When searches last left it for another space, in ISO 8601, UTC; empty if they never did.
    """

    space: EmbeddingSpace
    active: bool
    passages: int
    missing: int
    refused: int = 0
    left_at: str = ""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A text that a space's provider does not take.

    Attributes:
        reason: The provider's, in our words.
        key: A rule that holds the text.
    """

    content_hash: str
    reason: str
    key: RuleKey


class RuleStore(ABC):
    """Keeps rules by `(project_id, rule_id)` and vectors by `(space, content hash)`.

    Constructors do no I/O; `open` does. Every method raises `StoreError` or one of its kinds when the store fails.
    """

    is_shared: bool = False
    """Whether it is a team's: nobody's machine writes into it unasked."""
    notices: list[str]
    """What happened to the store that its user should know, such as a damaged file set aside."""

    @abstractmethod
    async def open(self) -> None:
        """Connect, create or migrate the schema. Safe to call twice.

        Raises:
            StoreUnavailableError: The store can't be reached or written.
            SchemaError: It was made by a newer version of symmetra-mcp.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Release what `open` took. Safe to call twice."""

    @property
    def trouble(self) -> str:
        """Why something else answers in the store's place just now; empty while it answers itself."""
        return ""

    @property
    def copy_is_stale(self) -> bool:
        """Whether `keep_copy` has something to do."""
        return False

    async def keep_copy(self) -> None:  # noqa: B027 - a hook for stores that keep a copy of themselves elsewhere
        """Bring the copy in step that answers while the store can't be reached.

        Raises:
            StoreError: The store or the copy failed.
        """

    def may_write(self) -> bool:
        """Whether rules and vectors can be written; a team's store may be open for reading alone."""
        return True

    @abstractmethod
    async def upsert_rules(self, rules: Sequence[Rule]) -> None:
        """Write rules by their key, all of them or none."""

    @abstractmethod
    async def delete_rules(self, keys: Sequence[RuleKey]) -> int:
        """Delete rules; vectors stay, as other rules may share them.

        Returns:
            How many of the keys existed.
        """

    @abstractmethod
    async def list_rules(self, project_id: str | None = None) -> list[Rule]:
        """All rules, or those of one project, ordered by key."""

    @abstractmethod
    async def page_of_rules(self, project_id: str, *, after: str = "", limit: int = 100) -> list[Rule]:
        """Rules of one project, ordered by id, a page at a time.

        Args:
            project_id: The project.
            after: Id that the page begins behind, whether there is such a rule or not; empty to begin.
            limit: Size of a page, at most 500.
        """

    @abstractmethod
    async def rules_revision(self) -> str:
        """Another text whenever a rule may have changed, whoever wrote it. Reads no rule."""

    @abstractmethod
    async def get_rule(self, key: RuleKey) -> Rule:
        """One rule.

        Raises:
            RuleNotFoundError: No rule has this key.
        """

    @abstractmethod
    async def count_rules(self) -> Mapping[str, int]:
        """Number of rules of each project."""

    @abstractmethod
    async def active_space(self) -> EmbeddingSpace | None:
        """The space that searches compare in, or `None` in a store that never held a vector."""

    @abstractmethod
    async def activate_space(self, space: EmbeddingSpace, *, if_complete: bool = False) -> bool:
        """Make searches compare in this space from now on, registering it if it is new.

        Args:
            space: The space.
            if_complete: Only where no text lacks a vector: looked at and switched in one step, so that a rule written
                in between is not missed.

        Returns:
            Whether it is the active space now.
        """

    @abstractmethod
    async def drop_space(self, space: EmbeddingSpace) -> int:
        """Forget a space and its vectors.

        Returns:
            How many vectors it had.

        Raises:
            StoreError: Searches compare in it.
        """

    @abstractmethod
    async def refuse_texts(self, space: EmbeddingSpace, reasons: Mapping[str, str]) -> None:
        """Remember that a space's provider does not take some texts, until a vector of them is put.

        A text that has a vector keeps it, and is not counted as refused.

        Args:
            space: The space.
            reasons: Why, by content hash.
        """

    @abstractmethod
    async def refusals(self, space: EmbeddingSpace) -> list[Refusal]:
        """Texts of rules that the space's provider does not take, by content hash."""

    @abstractmethod
    async def space_statuses(self) -> list[SpaceStatus]:
        """Every space the store knows."""

    @abstractmethod
    async def complete_spaces(self) -> list[EmbeddingSpace]:
        """Spaces that lack no text's vector: searches can compare in them. Cheap to ask for each search."""

    @abstractmethod
    async def count_passages(self) -> int:
        """Number of distinct texts that the rules need embedded."""

    @abstractmethod
    async def missing_passages(
        self, space: EmbeddingSpace, *, after: str = "", limit: int = 512, again: bool = False
    ) -> tuple[list[Passage], str]:
        """Distinct texts that have no vector in a space and were not refused, a page at a time.

        Args:
            space: The space to complete.
            after: Where to go on: the second value of the last call, or empty to begin.
            limit: Size of a page.
            again: Return the texts that have a vector or were refused too.

        Returns:
            The page, empty at the end; and where the next page begins.
        """

    @abstractmethod
    async def without_vector(self, space: EmbeddingSpace, hashes: Sequence[str]) -> set[str]:
        """Which of these content hashes have no vector in a space."""

    @abstractmethod
    async def get_vectors(self, space: EmbeddingSpace, hashes: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """The vectors of these content hashes in a space, as far as there are any.

        Returns:
            Vectors of shape `(space.dimensions,)`, bit for bit as they were put.
        """

    @abstractmethod
    async def put_vectors(self, hashes: Sequence[str], embeddings: Embeddings) -> None:
        """Store vectors under the content hashes of their texts, replacing what is there, refusals too.

        Args:
            hashes: One for each row of `embeddings.vectors`.
            embeddings: Vectors and their space.
        """

    @abstractmethod
    async def match(self, query: MatchQuery) -> Matches:
        """Find the rules that fit a query by meaning and words, fused and filtered.

        Raises:
            SpaceMismatchError: The query's vector belongs to a space that is neither active nor complete.
        """

    async def nearest(self, space: EmbeddingSpace, vectors: NDArray[np.float32], limit: int) -> list[list[float]]:
        """How near the texts of rules come to some vectors, in a space that need not be the active one.

        Args:
            space: Active or complete.
            vectors: Shape `(n, space.dimensions)`, unit length.
            limit: How many texts or rules for each.

        Returns:
            Cosines for each vector, the highest first.

        Raises:
            SpaceMismatchError: The space is neither active nor complete.
        """
        answers: list[list[float]] = []
        for vector in vectors:
            matches = await self.match(MatchQuery("", vector, space, limit=limit))
            found = (each.similarity for each in matches.candidates if each.similarity is not None)
            answers.append(sorted(found, reverse=True))
        return answers

    @abstractmethod
    async def describe(self) -> Mapping[str, Detail]:
        """Figures for `health_check`: kind, place, size. Never a secret."""

    @abstractmethod
    async def verify(self) -> str:
        """Check the store's integrity.

        Returns:
            What is wrong, or an empty string.
        """

    @abstractmethod
    def exclusive(self, task: str, *, wait: bool = True) -> AbstractAsyncContextManager[bool]:
        """Hold a task for this process alone: others that ask for it wait. Freed when the process dies.

        Args:
            task: Its name.
            wait: Without it, a task that another process holds is not waited for.

        Returns:
            A context manager that gives whether the task is held: always with `wait`.
        """

    @abstractmethod
    def take_rebuilt(self) -> bool:
        """Whether the store began anew since the last call, so that rules must be read from their files again."""

    @abstractmethod
    async def get_note(self, name: str) -> str:
        """A small text kept beside the rules, or empty."""

    @abstractmethod
    async def set_note(self, name: str, text: str) -> None:
        """Keep a small text beside the rules."""
