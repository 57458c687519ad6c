"""The flight board: what was running is readable after a death, and noting it is cheap and bounded."""

import subprocess
import sys
import threading

from amino.node import flight_board as fb


def board_at(tmp_path):
    path = tmp_path / "board"
    fb.create_board(path)
    return path, fb.FlightBoard(path)


def test_what_runs_is_read_and_what_ended_is_not(tmp_path):
    """Cells that were entered and not left are the suspects; each pair is told once."""
    path, board = board_at(tmp_path)
    ended = board.enter("a" * 24, "add")
    board.enter("b" * 24, "crash")
    board.enter("b" * 24, "crash")
    board.enter("c" * 24, "größe")
    board.leave(ended)
    assert fb.read_board(path) == (("b" * 24, "crash"), ("c" * 24, "größe"))
    board.close()


def test_a_full_board_notes_nothing_more_and_recovers(tmp_path):
    """The number of cells bounds it; a call beyond is not noted, and leaving it does nothing."""
    path, board = board_at(tmp_path)
    cells = [board.enter("a" * 24, f"m{n}") for n in range(fb.CELLS)]
    assert board.enter("a" * 24, "beyond") == fb.NOT_NOTED
    board.leave(fb.NOT_NOTED)
    assert len(fb.read_board(path)) == fb.CELLS
    for cell in cells:
        board.leave(cell)
    assert fb.read_board(path) == ()
    assert board.enter("a" * 24, "again") >= 0
    board.close()


def test_a_long_method_name_stays_in_its_cell(tmp_path):
    """A note is cut at the end of its cell and does not reach into the next."""
    path, board = board_at(tmp_path)
    board.enter("a" * 24, "x" * 500)
    board.enter("b" * 24, "next")
    found = dict(fb.read_board(path))
    assert found["b" * 24] == "next"
    assert set(found["a" * 24]) == {"x"}
    board.close()


def test_a_killed_process_leaves_its_notes(tmp_path):
    """The notes are in the file's pages, so SIGKILL cannot take them away."""
    path = tmp_path / "board"
    fb.create_board(path)
    program = (
        "import os, signal, sys; from pathlib import Path; from amino.node.flight_board import FlightBoard;"
        "b = FlightBoard(Path(sys.argv[1])); b.enter('f' * 24, 'deadly'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    assert fb.read_board(path) == (("f" * 24, "deadly"),)


def test_threads_never_share_a_cell(tmp_path):
    """Concurrent notes of many threads stay apart and all cells come back."""
    path, board = board_at(tmp_path)
    problems = []

    def work(number):
        for _ in range(300):
            cells = [board.enter(f"{number:024d}", "m") for _ in range(5)]
            if len(set(cells)) != 5:
                problems.append(cells)
            for cell in cells:
                board.leave(cell)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    assert fb.read_board(path) == ()
    assert repr(board) == "FlightBoard(0 running)"
    board.close()


def test_a_missing_board_has_no_suspects(tmp_path):
    """A child that died before it had a board leaves nobody to suspect."""
    assert fb.read_board(tmp_path / "none") == ()


def test_without_a_supervisor_nothing_is_noted():
    """The empty board accepts everything and keeps nothing."""
    board = fb.NoBoard()
    board.leave(board.enter("a", "b"))
