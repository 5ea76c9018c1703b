"""Threads that share commits: all or nothing for the group, each alone for what it did itself, none before the disk."""

from __future__ import annotations

import random
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from corelocker.licensing.errors import StorageError
from corelocker.service.group_commit import GroupCommit
from support.http_server import eventually


class Watched(sqlite3.Connection):
    """Says what it executes, and commits only when it is let."""

    said: list[str]
    may_commit: threading.Event
    refuses: list[sqlite3.Error]

    def commit(self) -> None:
        self.said.append("commit")
        assert self.may_commit.wait(20)
        if self.refuses:
            raise self.refuses.pop()
        super().commit()


class World:
    """A table `t` in a file, the transactions on it, and what became of each thread."""

    def __init__(self, path: Path, seconds: float = 20) -> None:
        self.path = path
        self.said: list[str] = []
        self.may_commit = threading.Event()
        self.may_commit.set()
        self.refuses: list[sqlite3.Error] = []
        self.writer = GroupCommit(self.connect, seconds)
        self.ended: dict[int, BaseException | None] = {}
        self.threads: list[threading.Thread] = []
        sqlite3.connect(path).execute("CREATE TABLE t (a INTEGER PRIMARY KEY)")

    def connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, factory=Watched)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.said, connection.may_commit, connection.refuses = self.said, self.may_commit, self.refuses
        connection.set_trace_callback(self.said.append)
        return connection

    def rows(self) -> set[int]:
        """What another connection sees."""
        other = sqlite3.connect(self.path)
        found = {row[0] for row in other.execute("SELECT a FROM t")}
        other.close()
        return found

    def insert(self, number: int, then: Callable[[], None] = lambda: None, *, durable: bool = True) -> None:
        with self.writer.transaction(durable=durable) as cursor:
            cursor.execute("INSERT INTO t VALUES (?)", (number,))
            then()

    def begin(self, number: int, then: Callable[[], None] = lambda: None, *, durable: bool = True) -> None:
        """The same in a thread."""

        def run() -> None:
            try:
                self.insert(number, then, durable=durable)
            except BaseException as error:
                self.ended[number] = error
            else:
                self.ended[number] = None

        thread = threading.Thread(target=run)
        self.threads.append(thread)
        thread.start()

    def begin_behind(self, *others: tuple[int, Callable[[], None]]) -> Callable[[], None]:
        """Thread 1 in the middle of its turn, and others that wait for theirs; returns what lets thread 1 go on."""
        goes_on = threading.Event()
        inside = threading.Event()

        def stay() -> None:
            inside.set()
            assert goes_on.wait(20)

        self.begin(1, stay)
        assert inside.wait(20)
        for number, then in others:
            self.begin(number, then)
        assert eventually(lambda: self.writer._waiting == len(others))
        return goes_on.set

    def join(self) -> None:
        for thread in self.threads:
            thread.join(20)
            assert not thread.is_alive()

    def commits(self) -> int:
        return self.said.count("commit")


def nothing() -> None:
    pass


def fail() -> None:
    raise KeyError("of its own")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path / "t.sqlite")
    yield world
    world.may_commit.set()
    world.join()
    world.writer.close()


def test_those_that_wait_share_a_commit(world: World) -> None:
    go_on = world.begin_behind((2, nothing), (3, nothing), (4, nothing))
    go_on()
    world.join()
    assert world.ended == {1: None, 2: None, 3: None, 4: None}
    assert world.rows() == {1, 2, 3, 4}
    assert world.commits() == 1


def test_one_that_nobody_waits_behind_commits_by_itself(world: World) -> None:
    for number in range(3):
        world.insert(number)
        assert world.rows() == set(range(number + 1))
    assert world.commits() == 3


def test_one_that_raises_is_undone_alone(world: World) -> None:
    go_on = world.begin_behind((2, fail), (3, nothing))
    go_on()
    world.join()
    assert isinstance(world.ended.pop(2), KeyError)
    assert world.ended == {1: None, 3: None}
    assert world.rows() == {1, 3}
    with pytest.raises(KeyError):
        world.insert(4, fail)
    assert world.rows() == {1, 3}


def test_nobody_returns_before_the_commit(world: World) -> None:
    world.may_commit.clear()
    go_on = world.begin_behind((2, nothing), (3, nothing))
    go_on()
    assert eventually(lambda: world.commits() == 1)
    assert world.ended == {}
    assert world.rows() == set()
    world.may_commit.set()
    world.join()
    assert len(world.ended) == 3
    assert world.rows() == {1, 2, 3}


def test_a_commit_that_fails_fails_for_all_of_its_group_and_for_no_other(world: World) -> None:
    world.refuses.append(sqlite3.OperationalError("database or disk is full"))
    go_on = world.begin_behind((2, nothing), (3, nothing))
    go_on()
    world.join()
    assert [type(error) for error in world.ended.values()] == [StorageError] * 3
    assert world.rows() == set()
    world.insert(4)
    assert world.rows() == {4}


def test_a_statement_that_is_refused_fails_for_all_of_its_group(world: World) -> None:
    def refuse() -> None:
        raise sqlite3.OperationalError("disk I/O error")

    go_on = world.begin_behind((2, refuse))
    go_on()
    world.join()
    assert [type(error) for error in world.ended.values()] == [StorageError] * 2
    assert "disk I/O" not in str(world.ended[2])
    assert world.rows() == set()
    world.insert(3)
    assert world.rows() == {3}


def test_who_gives_up_waiting_takes_no_group_with_it(tmp_path: Path) -> None:
    world = World(tmp_path / "t.sqlite", seconds=0.05)
    go_on = world.begin_behind((2, nothing))
    assert eventually(lambda: 2 in world.ended)
    assert isinstance(world.ended[2], StorageError)
    go_on()
    world.join()
    assert world.ended[1] is None
    assert world.rows() == {1}
    world.writer.close()


def test_one_that_must_be_durable_waits_for_no_group_that_is_not(world: World) -> None:
    world.insert(0, durable=False)
    inside, goes_on = threading.Event(), threading.Event()

    def stay() -> None:
        inside.set()
        assert goes_on.wait(20)

    world.begin(1, stay, durable=False)
    assert inside.wait(20)
    world.begin(2, durable=True)
    assert eventually(lambda: world.writer._waiting == 1)
    goes_on.set()
    world.join()
    assert world.rows() == {0, 1, 2}
    said = [text for text in world.said if "synchronous" in text or text == "commit"]
    assert said == ["PRAGMA synchronous = NORMAL", "commit", "commit", "PRAGMA synchronous = FULL", "commit"]


def test_a_group_is_not_larger_than_others_can_wait(world: World) -> None:
    go_on = world.begin_behind(*((number, nothing) for number in range(2, 40)))
    go_on()
    world.join()
    assert world.rows() == set(range(1, 40))
    assert world.commits() >= 3


def test_many_threads_keep_exactly_what_they_were_told(tmp_path: Path) -> None:
    world = World(tmp_path / "t.sqlite")
    kept: set[int] = set()
    chance = random.Random(7)
    plan = {number: chance.random() for number in range(400)}
    next_number = iter(plan)
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                number = next(next_number, None)
            if number is None:
                return
            try:
                if plan[number] < 0.02:
                    world.refuses.append(sqlite3.OperationalError("database or disk is full"))
                world.insert(number, fail if plan[number] > 0.8 else nothing, durable=plan[number] > 0.3)
            except (StorageError, KeyError):
                continue
            with lock:
                kept.add(number)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert world.rows() == kept
    assert 100 < len(kept) < 400
    world.writer.close()
