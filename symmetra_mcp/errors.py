"""Every exception that symmetra-mcp raises.

```
SymmetraError
├─ ConfigError
├─ RuleFileError
├─ SpaceMismatchError
├─ VerificationError
├─ RuleWriteError
├─ KeysUnavailableError
├─ EvaluationError
├─ ProviderError
│  ├─ ProviderNotInstalledError (also ImportError)
│  ├─ ProviderAuthError
│  ├─ RateLimitError
│  │  └─ QuotaExceededError
│  ├─ ProviderUnavailableError
│  ├─ InputRefusedError
│  ├─ InvalidEmbeddingError
│  ├─ InvalidRankingError
│  ├─ SpendingLimitError
│  └─ NoProviderError
└─ StoreError
   ├─ StoreUnavailableError
   ├─ StoreAccessError
   ├─ SchemaError
   └─ RuleNotFoundError
```

A message says what went wrong, where, and the next step. It never holds a key, a header or the text of a rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from symmetra_mcp.spaces import EmbeddingSpace

RefusedPart = Literal["text", "length", "request"]

LONGEST_NAME = 80
"""Characters of a name that a message repeats: whoever asked for a megabyte knows what it was."""


class SymmetraError(Exception):
    """Base of every error of ours: catching it catches all that symmetra-mcp raises on purpose."""


class ConfigError(SymmetraError):
    """A setting is missing or wrong; the message names the variable and what it accepts."""


class RuleFileError(SymmetraError):
    """A rule file, or the path given for one, can't be read; the message names the path."""


class SpaceMismatchError(SymmetraError):
    """Vectors of two embedding spaces met; the message names the command that repairs it.

    Attributes:
        expected: The space that the store compares in.
        actual: The space that the vectors came from.
    """

    def __init__(self, expected: EmbeddingSpace, actual: EmbeddingSpace) -> None:
        self.expected = expected
        self.actual = actual
        super().__init__(
            f"vectors of {actual} can't be compared with vectors of {expected}: they are numbers of different models. "
            "Run `symmetra-mcp reembed` to embed every rule with the present provider"
        )


class VerificationError(SymmetraError):
    """A new space is not what it should be, so searches did not switch to it.

    Attributes:
        space: The space that was to become the active one.
    """

    def __init__(self, space: EmbeddingSpace, problem: str) -> None:
        self.space = space
        super().__init__(
            f"searches stay where they were: {space} did not pass its check, {problem}. "
            "Run `symmetra-mcp migrate --force` to embed every rule again"
        )


class KeysUnavailableError(SymmetraError):
    """The public keys of an issuer can't be read now, so no token can be checked."""


class EvaluationError(SymmetraError):
    """Questions, judgments or a former run can't be used for an evaluation; the message names the places."""


class ProviderError(SymmetraError):
    """A provider failed: one of embeddings, or a re-ranker.

    Attributes:
        provider: The vendor's name, such as `openai` or `local`.
        model: The vendor's id of the model.
    """

    def __init__(self, message: str, *, provider: str, model: str = "") -> None:
        self.provider = provider
        self.model = model
        super().__init__(message)


class ProviderNotInstalledError(ProviderError, ImportError):
    """The package of a provider is not installed; the message names the command that installs it."""


class ProviderAuthError(ProviderError):
    """The provider refused the key. Never retried."""


class RateLimitError(ProviderError):
    """The provider's limit is reached.

    Attributes:
        retry_after_s: Seconds to wait by the provider's own figure, or `None` where it gave none.
    """

    def __init__(self, message: str, *, provider: str, model: str = "", retry_after_s: float | None = None) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message, provider=provider, model=model)


class QuotaExceededError(RateLimitError):
    """The account has no money or no calls left: waiting a minute does not help, so it is never retried."""


class ProviderUnavailableError(ProviderError):
    """The provider can't answer now: a timeout, no connection, a server error, a model file that can't be read."""


class InputRefusedError(ProviderError):
    """The provider refuses what it was sent: a text, the model's name or a parameter. Never retried.

    Attributes:
        about: What it refuses: a `text`, a text's `length`, or the `request` whatever its texts.
        index: Which text of the call it was, counted from 0, or `None` where that is not known.
    """

    def __init__(
        self, message: str, *, provider: str, model: str = "", about: RefusedPart = "text", index: int | None = None
    ) -> None:
        self.about = about
        self.index = index
        super().__init__(message, provider=provider, model=model)


class SpendingLimitError(ProviderError):
    """The request would pass the spending limit, so it was not sent.

    Attributes:
        spent_usd: Cost of this month so far, over all providers.
        limit_usd: What may be spent in a month.
    """

    def __init__(self, message: str, *, provider: str, model: str = "", spent_usd: float, limit_usd: float) -> None:
        self.spent_usd = spent_usd
        self.limit_usd = limit_usd
        super().__init__(message, provider=provider, model=model)


class InvalidEmbeddingError(ProviderError):
    """The provider answered with something that is no embedding: wrong count, wrong length, not finite, all zero."""


class InvalidRankingError(ProviderError):
    """A re-ranker answered with something that is no ranking: wrong count, an index twice, not finite."""


class NoProviderError(ProviderError):
    """No provider could be used.

    Attributes:
        causes: One error for each provider tried.
    """

    def __init__(self, message: str, *, causes: Sequence[ProviderError] = ()) -> None:
        self.causes = tuple(causes)
        super().__init__(message, provider="auto")


class StoreError(SymmetraError):
    """The rule store failed."""


class StoreUnavailableError(StoreError):
    """The store can't be opened, read or written now; nothing was lost."""


class StoreAccessError(StoreError):
    """The store refused the key, or the key may not do this. Never retried."""


class SchemaError(StoreError):
    """The store's schema is not what this version needs."""


class RuleNotFoundError(StoreError):
    """No rule has this id.

    Attributes:
        rule_id: The id that was asked for.
    """

    def __init__(self, rule_id: str, project_id: str) -> None:
        self.rule_id = rule_id
        where = f"in project {project_id[:LONGEST_NAME]!r}"
        super().__init__(f"no rule {rule_id[:LONGEST_NAME]!r} {where}: `symmetra-mcp rules list` shows the ids")


class RuleWriteError(SymmetraError):
    """A rule can't be saved or deleted as asked; the message says what to do instead."""
