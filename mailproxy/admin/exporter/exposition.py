"""The text that Prometheus reads, in its own format or as OpenMetrics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import trio
from attrs import frozen
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.exposition import choose_encoder

from mailproxy.admin.exporter import names
from mailproxy.admin.exporter.own import HistogramSample, histograms, own_samples
from mailproxy.admin.exporter.rows import Sample, haproxy_samples
from mailproxy.admin.history import History
from mailproxy.admin.runtime.call import Call

_PREFIX = "mailproxy_"
_HAPROXY_PREFIX = "haproxy_"
_END = b"# EOF\n"  # of OpenMetrics
_HAPROXYS_NAME = {"process_failed_resolutions_total": "process_failed_resolutions"}


async def expose(history: History, accept: str | None) -> tuple[bytes, str]:
    """Return the metrics as text, and its content type.

    Args:
        history: That of the proxy. The caller has refreshed its target.
        accept: The header ``Accept`` of the client.
    """
    encode, content_type = choose_encoder(accept or "")
    parts = []
    # Written at once, those of a thousand servers would keep sessions waiting for a quarter of a second.
    for family in _Families.of(history).in_order():
        parts.append(encode(_Single(family)).removesuffix(_END))
        await trio.lowlevel.checkpoint()
    if content_type.startswith("application/openmetrics-text"):
        parts.append(_END)
    return b"".join(parts), content_type


@frozen(eq=False)
class _Single(CollectorRegistry):
    """A registry with one metric."""

    metric: Metric

    def collect(self) -> Iterator[Metric]:
        yield self.metric


class _Families:
    """The samples of a proxy by metric, since each may come once only in the text."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._by_metric: dict[str, Metric] = {}
        self._copies: _Families | None = None

    @classmethod
    def of(cls, history: History) -> _Families:
        """Take the metrics of this moment."""
        call = Call(history.target, history, ignores_clear=True)
        haproxys = list(haproxy_samples(call))
        families = cls(_PREFIX)
        families.add([*haproxys, *own_samples(call.target)])
        families.add_histograms(histograms(call.target.figures))
        if call.target.config.metrics.haproxy_names:
            families._copies = cls(_HAPROXY_PREFIX)
            families._copies.add(haproxys)
        return families

    def add(self, samples: Iterable[Sample]) -> None:
        for metric, labels, value in samples:
            family = self._family(metric)
            family.add_sample(self._name(metric), dict(zip(metric.labels, labels, strict=True)), value)

    def add_histograms(self, samples: Iterable[HistogramSample]) -> None:
        for metric, values, histogram, factor in samples:
            family, name = self._family(metric), self._name(metric)
            labels = dict(zip(metric.labels, values, strict=True))
            bounds = [
                *(f"{bound * factor:g}" if factor != 1 else str(float(bound)) for bound in histogram.bounds),
                "+Inf",
            ]
            for bound, count in zip(bounds, histogram.counts, strict=True):
                family.add_sample(f"{name}_bucket", {**labels, "le": bound}, count)
            family.add_sample(f"{name}_count", labels, histogram.count)
            family.add_sample(f"{name}_sum", labels, histogram.sum * factor)

    def in_order(self) -> Iterator[Metric]:
        """Yield the families in the order of the documentation."""
        for metric in names.METRICS:
            if metric.name in self._by_metric:
                yield self._by_metric[metric.name]
        if self._copies is not None:
            yield from self._copies.in_order()

    def _name(self, metric: names.Metric) -> str:
        name = metric.name
        if self._prefix == _HAPROXY_PREFIX:
            name = _HAPROXYS_NAME.get(name, name)
        return self._prefix + name

    def _family(self, metric: names.Metric) -> Metric:
        family = self._by_metric.get(metric.name)
        if family is None:
            name = self._name(metric)
            metric_type = metric.type if name.endswith("_total") or metric.type != "counter" else "unknown"
            family = Metric(name.removesuffix("_total"), metric.help, metric_type)
            self._by_metric[metric.name] = family
        return family
