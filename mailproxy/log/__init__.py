"""The log: what ended sessions and why, and what else an operator must know. Credentials and mail content never."""

from mailproxy.log.end_reasons import ENDS, EndedBy, EndReason, Phase
from mailproxy.log.record import SessionRecord
from mailproxy.log.targets import Target, open_target
from mailproxy.log.writer import Log, Output

__all__ = ["ENDS", "EndReason", "EndedBy", "Log", "Output", "Phase", "SessionRecord", "Target", "open_target"]
