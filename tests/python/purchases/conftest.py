"""A Google Play of the tests' own, and a client that is signed in to it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.google_play import Google
from support.play_server import http_server


@pytest.fixture
def google() -> Iterator[Google]:
    server = Google()
    with http_server(server.answer) as url:
        server.url = url
        server.play = server.client()
        yield server
