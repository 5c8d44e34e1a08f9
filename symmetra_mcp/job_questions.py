"""What a piece of work asks the client's user while it runs: a client that follows it as a task hears and answers."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anyio

if TYPE_CHECKING:  # commands have jobs too, and start without MCP
    from collections.abc import Mapping

    from mcp_types import InputRequest, InputResponse


@dataclass(slots=True)
class _Question:
    request: InputRequest
    answered: anyio.Event = field(default_factory=anyio.Event)
    answer: Any = None


class JobQuestions:
    """The questions of one job, each under an id of its own. All of it on the event loop."""

    def __init__(self) -> None:
        self._open: dict[str, _Question] = {}

    @property
    def open(self) -> dict[str, InputRequest]:
        """Those that wait for an answer, by id."""
        return {key: question.request for key, question in self._open.items()}

    async def ask(self, request: InputRequest) -> InputResponse:
        """Ask, and wait for the answer, however long that takes.

        Args:
            request: Of a kind that the client has declared: whoever begins the job looks.
        """
        key, question = secrets.token_urlsafe(12), _Question(request)
        self._open[key] = question
        try:
            await question.answered.wait()
        finally:
            self._open.pop(key, None)
        answer: InputResponse = question.answer
        return answer

    def answer(self, answers: Mapping[str, InputResponse]) -> None:
        """Take answers to questions that are open."""
        for key, answer in answers.items():
            question = self._open.pop(key)
            question.answer = answer
            question.answered.set()
