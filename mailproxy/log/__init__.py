"""The log: what ended sessions and why, and what else an operator must know. Credentials and mail content never."""

from mailproxy.log.ends import ENDS, By, End, Phase
from mailproxy.log.log import Log, Output
from mailproxy.log.record import SessionRecord
from mailproxy.log.targets import Target, open_target

__all__ = ["ENDS", "By", "End", "Log", "Output", "Phase", "SessionRecord", "Target", "open_target"]
