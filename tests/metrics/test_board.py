"""Boards in shared memory: found again by the next process, and read while they are written."""

import os

from mailproxy.ipc.board import SharedBoard
from mailproxy.metrics.board import LocalBoard


def test_block_is_found_again_by_key() -> None:
    for board in (SharedBoard(), LocalBoard()):
        block = board.block(("started", "imap", "bind é"), 2)
        block[1] += 7
        board.block(("started", "pop3", ""), 1)[0] += 1
        assert board.block(("started", "imap", "bind é"), 2)[1] == 7
        assert {key: list(cells) for key, cells in board.blocks()} == {
            ("started", "imap", "bind é"): [0, 7],
            ("started", "pop3", ""): [1],
        }


def test_counts_of_killed_process_stay_and_grow() -> None:
    board = SharedBoard()
    for number in range(3):
        pid = os.fork()
        if pid == 0:
            board.block(("sessions", "imap"), 2)[0] += 5
            board.block((f"only of process {number}",), 1)[0] += 1
            os.kill(os.getpid(), 9)
        os.waitpid(pid, 0)
        assert dict(board.blocks())["sessions", "imap"] == [5 * (number + 1), 0]
    assert len(dict(board.blocks())) == 4


def test_half_written_block_of_killed_process_is_reused() -> None:
    board = SharedBoard()
    board.block(("first",), 3)[0] = 1
    words = board._words
    for index in range(
        words[0], words[0] + 40
    ):  # what a killed process had written before it published its block
        words[index] = 99
    assert list(board.block(("second",), 5)) == [0] * 5  # type: ignore[call-overload]
    assert dict(board.blocks()) == {("first",): [1, 0, 0], ("second",): [0] * 5}


def test_full_board_counts_without_readers() -> None:
    board = SharedBoard(words=16)
    board.block(("a",), 4)[0] = 1
    for _ in range(2):
        board.block(("does not fit",), 20)[19] += 1
    assert board.block(("does not fit",), 20)[19] == 2
    assert list(board.blocks()) == [(("a",), [1, 0, 0, 0])]
