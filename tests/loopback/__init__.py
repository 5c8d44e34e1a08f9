"""A vendor on the loopback interface: OpenAI's and Cohere's wire formats, their limits, and everything that goes wrong.

Example:
    ```python
    with LoopbackVendor() as vendor:
        vendor.inject(Fault.SERVER_ERROR, times=2)
        client = openai.OpenAI(api_key="sk-test", base_url=vendor.openai_base_url)
        ...
        assert vendor.stats.requests == 3
    ```
"""

from loopback.cohere_rerank_wire import relevance
from loopback.faults import Fault, FaultRule
from loopback.models import count_tokens
from loopback.state import RecordedRequest, Settings, Stats
from loopback.vectors import embed, expected_vector
from loopback.vendor import LoopbackVendor

__all__ = [
    "Fault",
    "FaultRule",
    "LoopbackVendor",
    "RecordedRequest",
    "Settings",
    "Stats",
    "count_tokens",
    "embed",
    "expected_vector",
    "relevance",
]
