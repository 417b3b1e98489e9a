"""Messages between the processes of one proxy: a frozen class for each message, and one encoding.

    message             from        to           reply
    ------------------  ----------  -----------  -------------------------------------------------------
    WorkerChannel       supervisor  control      the worker sends Register on the socket that comes along
    SignalReceived      supervisor  control
    ProcessExit         supervisor  control
    ReloadFailed        supervisor  control
    HandoverFailed      supervisor  control
    PassSockets         control     supervisor   all listening sockets, on the socket that comes along
    HandedOver          control     supervisor   SignalReceived, and ``ok`` on that socket
    ReloadAnswer        supervisor  control
    RequestReload       control     supervisor   ReloadAnswer, with a file
    ReloadProgress      control     supervisor
    ApplyReload         supervisor  worker       ReloadApplied to the control process
    ReloadSockets       supervisor  worker
    ReloadApplied       worker      control      as for Register
    ControlChannel      supervisor  worker       Register, on the socket that comes along
    Drain               supervisor  worker
                        control     worker
    Stop                supervisor  worker
                        control     worker
    DrainSessions       control     worker       DrainProgress, Ack
    CancelDrain         control     worker       DrainProgress, Ack
    DrainProgress       worker      control
    Register            worker      control      ServerUpdates, StickTablePart, StartServing
    ServerSnapshots     worker      control
    StartServing        control     worker       Ready, once the worker listens
    Ready               worker      control
    ServerUpdates       control     worker       Ack, if ``ack`` is set
    ReopenLog           control     worker       Ack
    ReloadCertificates  control     worker       Ack
    Ack                 worker      control
    ConnectFailure      worker      control
    StickUpdates        worker      control      the control process sends the entries on to every worker
                        control     worker
    RequestCounters     control     worker       Ack
    RequestRecent       control     worker       RecentRecords, Ack
    RecentRecords       worker      control
    FollowRecords       control     worker       Records, until it says that it is off
    Records             worker      control
    RequestSessions     control     worker       Sessions, Ack
    Sessions            worker      control
    ClearMaxima         control     worker       Ack
    EndSession          control     worker       Ack
    FrontendUpdates     worker      control
                        control     worker       Ack, if ``ack`` is set
    RemoveStickEntries  control     worker
    RequestStickTable   control     worker       StickTablePart for each backend, StickTableEnd
    StickTablePart      worker      control
                        control     worker
    StickTableEnd       worker      control

A message is one packet with one JSON object: ``type`` is the name of the class, the other members are its
fields. What comes often is packed tighter: check outcomes, addresses and stick entries are arrays.
Both ends run the same program, so a message that cannot be decoded is a bug of the program. The channel logs
it and goes on.
"""

from __future__ import annotations

from mailproxy.workers.messages.admin import (
    ClearMaxima,
    EndSession,
    FollowRecords,
    FrontendUpdates,
    PackedRecord,
    RecentRecords,
    Records,
    RemoveStickEntries,
    RequestCounters,
    RequestRecent,
    RequestSessions,
    Sessions,
)
from mailproxy.workers.messages.encoding import (
    MessageError,
    batch_by_size,
    batched,
    decode,
    encode,
    open_channel,
    prepare_encoding,
)
from mailproxy.workers.messages.kinds import (
    MESSAGES,
    Ack,
    AckedMessage,
    AgedStickEntries,
    CancelDrain,
    ConnectFailure,
    ControlChannel,
    Drain,
    DrainProgress,
    DrainSessions,
    HandedOver,
    HandoverFailed,
    IndexedSnapshot,
    Message,
    PassSockets,
    ProcessExit,
    Ready,
    Register,
    ReloadCertificates,
    ReloadFailed,
    ReopenLog,
    RequestStickTable,
    ServerSnapshots,
    ServerUpdates,
    SignalReceived,
    StartServing,
    StickEntries,
    StickTableEnd,
    StickTablePart,
    StickUpdates,
    Stop,
    WorkerChannel,
)

__all__ = [
    "MESSAGES",
    "Ack",
    "AckedMessage",
    "AgedStickEntries",
    "CancelDrain",
    "ClearMaxima",
    "ConnectFailure",
    "ControlChannel",
    "Drain",
    "DrainProgress",
    "DrainSessions",
    "EndSession",
    "FollowRecords",
    "FrontendUpdates",
    "HandedOver",
    "HandoverFailed",
    "IndexedSnapshot",
    "Message",
    "MessageError",
    "PackedRecord",
    "PassSockets",
    "ProcessExit",
    "Ready",
    "RecentRecords",
    "Records",
    "Register",
    "ReloadCertificates",
    "ReloadFailed",
    "RemoveStickEntries",
    "ReopenLog",
    "RequestCounters",
    "RequestRecent",
    "RequestSessions",
    "RequestStickTable",
    "ServerSnapshots",
    "ServerUpdates",
    "Sessions",
    "SignalReceived",
    "StartServing",
    "StickEntries",
    "StickTableEnd",
    "StickTablePart",
    "StickUpdates",
    "Stop",
    "WorkerChannel",
    "batch_by_size",
    "batched",
    "decode",
    "encode",
    "open_channel",
    "prepare_encoding",
]
