"""The short form of tools/soak.py: workers and the database are killed at random under mixed traffic."""

from __future__ import annotations

from pathlib import Path

from support.postgres import PostgresServer
from support.unlock_world import World

from tools import soak


def test_nothing_is_lost_or_doubled_by_kills(tmp_path: Path) -> None:
    server = PostgresServer(durable=True)
    try:
        world = World(tmp_path, server.new_database())
        world.configure(devices=soak.PLACES, workers=2)
        world.migrate()
        result = soak.soak(world, 0.25, 3, print, server, kill=4)
    finally:
        server.stop()
    print(result)
    assert sum(result["kills"].values()) >= 2
    assert (result["errors"], result["lost"], result["doubled"]) == (0, 0, 0)
    assert result["licenses"] > 50
    assert result["exit"] == 0
