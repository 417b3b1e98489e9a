"""A client of HTTP beside a proxy, and the metrics that it reads."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Mapping
from typing import Any

from attrs import frozen
from prometheus_client.parser import text_string_to_metric_families

TIMEOUT_S = 30.0
Labels = tuple[tuple[str, str], ...]


@frozen
class Answer:
    """An answer.

    Attributes:
        headers: by lower-case name.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def request(
    port: int,
    path: str,
    *,
    method: str = "GET",
    body: bytes | str | None = None,
    context: ssl.SSLContext | None = None,
    host: str = "127.0.0.1",
    **headers: str,
) -> Answer:
    """Send one request on a connection of its own. Underscores in names of headers become hyphens."""
    connection = (
        http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S, context=context)
        if context is not None
        else http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    )
    try:
        connection.request(
            method, path, body, {name.replace("_", "-"): value for name, value in headers.items()}
        )
        response = connection.getresponse()
        received = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, received, response.read())
    finally:
        connection.close()


class Scrape:
    """The samples of one scrape."""

    def __init__(self, text: str) -> None:
        self.samples: dict[tuple[str, Labels], float] = {}
        self.counters: set[str] = set()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                self.samples[sample.name, tuple(sorted(sample.labels.items()))] = sample.value
                if family.type == "counter" or (
                    family.type == "histogram" and not sample.name.endswith("_created")
                ):
                    self.counters.add(sample.name)

    @classmethod
    def of(cls, port: int) -> Scrape:
        answer = request(port, "/metrics")
        assert answer.status == 200, answer.text
        return cls(answer.text)

    def sum(self, metric: str, /, **labels: str) -> float:
        """Return the sum of the samples with this name behind the prefix, and with these labels."""
        return sum(
            value
            for (each, own), value in self.samples.items()
            if each == f"mailproxy_{metric}" and labels.items() <= dict(own).items()
        )

    def went_back(
        self, before: Scrape, *, may_be_gone: bool = False
    ) -> dict[tuple[str, Labels], tuple[float, float]]:
        """Return the counters that are smaller than in an earlier scrape, or gone, with both values."""
        return {
            key: (value, self.samples.get(key, -1.0))
            for key, value in before.samples.items()
            if key[0] in before.counters
            and self.samples.get(key, -1.0) < value
            and not (may_be_gone and key not in self.samples)
        }
