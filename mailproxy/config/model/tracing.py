"""The table ``[tracing]``."""

from __future__ import annotations

from attrs import frozen

from mailproxy.config.model.setting import setting
from mailproxy.config.values import CollectorUrl, Text


@frozen(kw_only=True)
class Tracing:
    """Sessions as spans of OpenTelemetry. Needs the extra `mailproxy[tracing]`."""

    otlp: CollectorUrl | None = setting(
        "base URL of a collector for OTLP over HTTP",
        None,
        default_text="no traces",
        details="Spans go to `/v1/traces` below it, in Protobuf. The variables `OTEL_EXPORTER_OTLP_…` set headers, CA and "
        "compression.",
    )
    sample: float = setting("part of the sessions that is sent, from 0 to 1", 1.0)
    service: Text = setting("name of the service in the traces", Text("mailproxy"))
