"""One SQLite connection that writes for all threads of a process, and commits at once what several of them have done.

A commit takes a fifth of an unlock's processor time on a disk, so threads that decide at the same time share one. Each
has its turn, in a savepoint of its own: what it did is undone alone when it raises. Whoever ends its turn while others
wait for theirs leaves the commit to them, and nobody returns before the commit that holds its transaction. Where SQLite
itself refuses a statement or the commit, all of the group fail, because it may have undone all of them.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from corelocker.licensing.errors import StorageError

# The first of a group waits for the others, and other processes for all of them.
_MOST_TOGETHER = 16


class _Group:
    """Transactions that are committed together."""

    def __init__(self, durable: bool) -> None:
        self.durable = durable
        self.size = 0
        self.ended = threading.Event()
        self.error: sqlite3.Error | None = None


class GroupCommit:
    """Transactions on one connection, one at a time.

    Args:
        connect: opens a connection that begins no transaction by itself.
        seconds: how long a thread waits for its turn.
    """

    def __init__(self, connect: Callable[[], sqlite3.Connection], seconds: float) -> None:
        self._connect = connect
        self._seconds = seconds
        self._turns = threading.Condition()
        self._taken = False
        self._waiting = 0
        # What follows belongs to the thread whose turn it is.
        self._connection: sqlite3.Connection | None = None
        self._durable: bool | None = None
        self._group: _Group | None = None

    @contextmanager
    def transaction(self, *, durable: bool) -> Iterator[sqlite3.Cursor]:
        """A cursor for one transaction; committed when the block has ended, undone when it raises.

        Unless `durable`, a power failure may undo it. Raises StorageError when its turn does not come in time, or when
        SQLite refuses something of its group.
        """
        self._take_turn()
        try:
            cursor, group = self._join(durable)
            cursor.execute("SAVEPOINT one")
            try:
                yield cursor
            except sqlite3.Error:
                raise
            except BaseException:
                cursor.execute("ROLLBACK TO one")
                cursor.execute("RELEASE one")
                raise
            cursor.execute("RELEASE one")
            cursor.close()
            group.size += 1
        except sqlite3.Error as error:
            self._fail(error)
            raise _refused(error) from error
        finally:
            self._end_turn()
        group.ended.wait()
        if group.error is not None:
            raise _refused(group.error) from group.error

    def close(self) -> None:
        """Close the connection after the transactions under way. Raises StorageError when they do not end in time."""
        self._take_turn()
        try:
            self._commit()
            if self._connection is not None:
                self._connection.close()
                self._connection = None
        finally:
            self._end_turn()

    def _take_turn(self) -> None:
        with self._turns:
            self._waiting += 1
            came = self._turns.wait_for(lambda: not self._taken, self._seconds)
            self._waiting -= 1
            if not came:
                raise StorageError("the database is busy")
            self._taken = True

    def _end_turn(self) -> None:
        with self._turns:
            # One that waits takes its turn; or it gives up while another has it, who then sees one less.
            leave = self._waiting > 0 and self._group is not None and self._group.size < _MOST_TOGETHER
            if leave:
                self._pass_on()
        if not leave:
            self._commit()
            with self._turns:
                self._pass_on()

    def _pass_on(self) -> None:
        self._taken = False
        self._turns.notify()

    def _join(self, durable: bool) -> tuple[sqlite3.Cursor, _Group]:
        """The group that is open, or a new one, which has the write lock from here on."""
        if self._group is not None and durable and not self._group.durable:
            self._commit()
        if self._connection is None:
            self._connection, self._durable = self._connect(), None
        cursor = self._connection.cursor()
        if self._group is None:
            if self._durable is not durable:
                cursor.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
                self._durable = durable
            cursor.execute("BEGIN IMMEDIATE")
            self._group = _Group(durable)
        return cursor, self._group

    def _commit(self) -> None:
        """Commit the open group, if there is one."""
        if self._group is not None and self._connection is not None:
            try:
                self._connection.commit()
            except sqlite3.Error as error:
                self._fail(error)
            else:
                self._group.ended.set()
                self._group = None

    def _fail(self, error: sqlite3.Error) -> None:
        """Undo all of the group, and give up the connection: whatever state it is in, a new one is in none."""
        connection, self._connection = self._connection, None
        if connection is not None:
            # SQLite closes a connection, and ends its transaction, only when no cursor is left of it.
            with suppress(sqlite3.Error):
                connection.rollback()
        group, self._group = self._group, None
        if group is not None:
            group.error = error
            group.ended.set()


def _refused(error: sqlite3.Error) -> StorageError:
    # Not its text: it may quote rows.
    return StorageError(f"the database refuses ({type(error).__name__})")
