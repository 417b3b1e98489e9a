"""HAProxy's typed and JSON output, which ``show info`` and ``show stat`` share (management guide, 9.2 and 9.4)."""

from __future__ import annotations

from attrs import frozen

Value = int | str

_ORIGINS = {"M": "Metric", "S": "Status", "K": "Key", "C": "Config", "P": "Product"}
_NATURES = {
    "A": "Age", "a": "Average", "C": "Counter", "D": "Duration", "G": "Gauge", "L": "Limit", "M": "Max", "m": "Min",
    "N": "Name", "O": "Output", "R": "Rate", "T": "Date", "S": "Gauge",
}  # fmt: skip
_SCOPES = {"C": "Cluster", "P": "Process", "S": "Service", "Y": "System"}


@frozen
class TypedValue:
    """A value with what is known of it.

    Attributes:
        position: Its position among all fields.
        name: The field.
        tags: Origin, nature and scope, a letter each.
        type: ``u32``, ``s32``, ``u64`` or ``str``.
        value: The value.
    """

    position: int
    name: str
    tags: str
    type: str
    value: Value

    def typed(self, prefix: str = "") -> str:
        """Return the line of the typed output; ``prefix`` names the object."""
        return f"{prefix}{self.position}.{self.name}.1:{self.tags}:{self.type}:{self.value}"

    def json(self) -> dict[str, object]:
        """Return the object of the JSON output."""
        origin, nature, scope = tuple(self.tags)
        return {
            "field": {"pos": self.position, "name": self.name},
            "processNum": 1,
            "tags": {"origin": _ORIGINS[origin], "nature": _NATURES[nature], "scope": _SCOPES[scope]},
            "value": {"type": self.type, "value": self.value},
        }
