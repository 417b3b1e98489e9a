"""The log: a line for each session and each event. Never credentials or mail content.

Modules, in reading order:
    end_reasons: the table of why sessions end.
    events: the table of everything else that is logged.
    record: the facts of one session, for its line.
    formats: sessions and events as lines.
    feed: sessions and events as values, for subscribers such as the admin sockets.
    fields: the fields of a session's line in JSON, for the documentation.
    writer: takes lines and writes them in batches, with a task for each target.
    targets: where lines go: a stream, a file, or syslog.
    line_writer: writes whole lines to a descriptor that several processes may share.
    thread: the thread of a writer, for what blocks.
    tracing: sessions as spans of OpenTelemetry, imported only if they are wanted.
"""

from mailproxy.log.end_reasons import END_REASONS, EndedBy, EndReason, Phase
from mailproxy.log.feed import EventRecord, Follower, LostRecords, Record, RecordBuffer, Subscriber
from mailproxy.log.record import SessionRecord, Step, TimedRecord
from mailproxy.log.targets import Target, open_target
from mailproxy.log.writer import Log, Output

__all__ = [
    "END_REASONS",
    "EndReason",
    "EndedBy",
    "EventRecord",
    "Follower",
    "Log",
    "LostRecords",
    "Output",
    "Phase",
    "Record",
    "RecordBuffer",
    "SessionRecord",
    "Step",
    "Subscriber",
    "Target",
    "TimedRecord",
    "open_target",
]
