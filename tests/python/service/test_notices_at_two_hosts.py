"""Notifications of the stores at two hosts on one PostgreSQL database, against each other, unlocks and renewals.

Whatever comes first where, the newest statement of the store counts, and what a refund has ended is not given out again.
"""

from __future__ import annotations

import base64
import json
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import psycopg
import pytest
import requests
from corelocker.purchases.entitlements import Purchase
from corelocker.service.records import PurchaseKey, StoredEntitlement
from support.apple_signer import APPLE, transaction
from support.full_service import AUDIENCE, SENDER, one_time, push_token
from support.http_server import eventually
from support.play_server import Call, PlayServer, Reply, http_server, json_reply, service_account
from support.postgres import PostgresServer
from support.two_hosts import Answer, TwoHosts, at_once, challenge, codes, two_hosts
from support.unlock_world import APP, PARALLEL, Phone, ServiceProcess, World, post

REVOKED = "purchase-revoked"
SETTINGS = """[apps.app_store]
app_apple_id = 1234
roots = ["store.der"]
[apps.google_play]
service_account_file = "account.json"
base_url = "{url}"
notice_audience = "{audience}"
notice_sender = "{sender}"
notice_keys_url = "{url}/certs"
"""
# What a transaction does last is its row of the audit log.
SLOW = """
CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.01); RETURN NEW; END';
CREATE TRIGGER slow BEFORE INSERT ON audit FOR EACH ROW EXECUTE FUNCTION slow();
"""


@pytest.fixture(scope="module")
def play() -> Iterator[tuple[PlayServer, str]]:
    """Google Play, and where it is."""
    server = PlayServer(package=APP)
    with http_server(server.answer) as url:
        yield server, url


@pytest.fixture(scope="module")
def pair(
    tmp_path_factory: pytest.TempPathFactory, postgres: PostgresServer, play: tuple[PlayServer, str]
) -> Iterator[TwoHosts]:
    """Two hosts; each test takes purchases of its own. Transactions take long, so that they really meet."""
    folder, url = tmp_path_factory.mktemp("pair"), play[1]
    (folder / "store.der").write_bytes(APPLE.root)
    (folder / "account.json").write_text(json.dumps(service_account(url)))
    (folder / "account.json").chmod(0o600)
    settings = SETTINGS.format(url=url, audience=AUDIENCE, sender=SENDER)
    world = World(folder, postgres.new_database(), devices=1000, settings=settings)
    world.migrate()
    with closing(psycopg.connect(world.database_url.replace("+psycopg", ""), autocommit=True)) as connection:
        connection.execute(SLOW)
    with two_hosts(world) as services:
        yield world, services


# --- the App Store


def signed(purchase: str, at_ms: int, **changes: Any) -> str:
    """What Apple signs about a purchase at a time."""
    bought = {"purchaseDate": at_ms - 1000, "originalPurchaseDate": at_ms - 1000, "signedDate": at_ms}
    named = {"originalTransactionId": purchase, "transactionId": purchase, "bundleId": APP, "productId": "full"}
    return APPLE.sign(transaction(**(bought | named | changes)))


def apple_notice(kind: str, purchase: str, at_ms: int, **changes: Any) -> dict[str, str]:
    """A notification with a statement of that time."""
    info = signed(purchase, at_ms, **changes)
    data = {"appAppleId": 1234, "bundleId": APP, "environment": "Sandbox", "signedTransactionInfo": info}
    payload = {"notificationType": kind, "notificationUUID": f"{kind}-{at_ms}", "version": "2.0", "signedDate": at_ms}
    return {"signedPayload": APPLE.sign(payload | {"data": data})}


def refund(purchase: str, at_ms: int) -> dict[str, str]:
    return apple_notice("REFUND", purchase, at_ms, revocationDate=at_ms)


def notify(service: ServiceProcess, body: object, store: str = "app-store", token: str | None = None) -> Answer:
    """Deliver a notification; a host that has taken it in has no more to say."""
    with requests.Session() as session:
        session.trust_env = False
        headers = {} if token is None else {"authorization": token}
        url = f"{service.url}/v1/notifications/{store}/{APP}"
        answer = session.post(url, json=body, headers=headers, timeout=60)
        return answer.status_code, json.loads(answer.content or b"{}")


def unlock(service: ServiceProcess, phone: Phone, purchase: dict[str, Any]) -> Answer:
    shown = purchase.get("transaction") or purchase["token"]
    body = phone.unlock_body(challenge(service), shown) | {"purchase": purchase}
    return post(f"{service.url}/v1/licenses", body)


def renew(service: ServiceProcess, phone: Phone, license_id: str) -> Answer:
    body = phone.renew_body(challenge(service), license_id)
    return post(f"{service.url}/v1/licenses/{license_id}/renew", body)


def apple(purchase: str, at_ms: int) -> dict[str, Any]:
    return {"provider": "app-store", "transaction": signed(purchase, at_ms)}


def stored(world: World, key: PurchaseKey) -> StoredEntitlement:
    with world.storage() as storage:
        found = storage.entitlement(key)
    assert found is not None
    return found


def statements(world: World, purchase: str) -> tuple[Purchase, ...]:
    return stored(world, PurchaseKey("app-store", APP, purchase)).entitlement.purchases


@pytest.mark.parametrize("known", [True, False])
def test_one_notification_at_both_hosts(pair: TwoHosts, known: bool) -> None:
    """The same bytes 50 times, half of them to each host, about a purchase that was shown before or never."""
    world, services = pair
    purchase, now = f"same-{known}", int(time.time() * 1000)
    phone, bought = Phone(world), apple(purchase, now - 5000)
    if known:
        assert unlock(services[0], phone, bought)[0] == 201
    notice = refund(purchase, now)
    answers = at_once([
        lambda service=services[number % 2]: notify(service, notice)  # type: ignore[misc]
        for number in range(PARALLEL)
    ])  # fmt: skip
    assert [status for status, _ in answers] == [204] * PARALLEL
    (statement,) = statements(world, purchase)
    assert (statement.status, statement.as_of_ms) == ("revoked", now)
    for service in services:
        assert codes([unlock(service, phone, bought)]) == {REVOKED: 1}


@pytest.mark.parametrize("number", range(2))
def test_a_refund_against_unlocks_and_renewals(pair: TwoHosts, number: int) -> None:
    """Devices ask without a pause, at both hosts, until they are refused: none gets a license once a host has said 204."""
    world, services = pair
    purchase, now = f"refunded-{number}", int(time.time() * 1000)
    bought, notice, taken_in = apple(purchase, now - 5000), refund(purchase, now), threading.Event()
    given: list[tuple[Phone, bool]] = []

    def ask(client: int) -> str:
        """Until the first refusal: a new device unlocks at one host and renews at the other."""
        license_id = ""
        for turn in range(60):
            late, service = taken_in.is_set(), services[(client + turn) % 2]
            if turn % 2 == 0:
                phone = Phone(world)
            answer = renew(service, phone, license_id) if turn % 2 else unlock(service, phone, bought)
            (code,) = codes([answer])
            if code != "license":
                return code
            license_id = answer[1]["license_id"]
            given.append((phone, late))
        return "never refused"

    def tell() -> list[int]:
        """The store tells both hosts at once, when the devices are at it."""
        assert eventually(lambda: len(given) > 16, 60)
        answers = at_once([lambda service=service: notify(service, notice) for service in services])  # type: ignore[misc]
        taken_in.set()
        return [status for status, _ in answers]

    with ThreadPoolExecutor(13) as pool:
        told = pool.submit(tell)
        outcomes = list(pool.map(ask, range(12)))
        assert told.result() == [204, 204]
    assert set(outcomes) == {REVOKED}
    assert not any(late for _, late in given)
    (statement,) = statements(world, purchase)
    assert statement.status == "revoked"
    places = stored(world, PurchaseKey("app-store", APP, purchase)).entitlement.places
    assert {place.device for place in places} == {phone.thumbprint for phone, _ in given}


@pytest.mark.parametrize("ended", [False, True] * 3)
def test_notifications_in_another_order_at_each_host(pair: TwoHosts, ended: bool) -> None:
    """Purchase, refund, its reversal and perhaps a second refund: twice at each host, shuffled, all at one moment."""
    world, services = pair
    now = int(time.time() * 1000)
    purchase = f"shuffled-{now}"
    told = [
        apple_notice("ONE_TIME_CHARGE", purchase, now - 4000),
        refund(purchase, now - 3000),
        apple_notice("REFUND_REVERSED", purchase, now - 2000),
        *([refund(purchase, now - 1000)] if ended else []),
    ]
    deliveries = [(service, notice) for service in services for notice in told * 2]
    random.Random(now).shuffle(deliveries)
    answers = at_once([
        lambda service=service, notice=notice: notify(service, notice)  # type: ignore[misc]
        for service, notice in deliveries
    ])  # fmt: skip
    assert {status for status, _ in answers} == {204}
    (statement,) = statements(world, purchase)
    assert (statement.status, statement.as_of_ms) == (("revoked", now - 1000) if ended else ("active", now - 2000))
    answers = [unlock(service, Phone(world), apple(purchase, now - 4000)) for service in services]
    assert codes(answers) == ({REVOKED: 2} if ended else {"license": 2})


# --- Google Play


def google_notice(token: str, *, voided: bool) -> dict[str, Any]:
    """As Pub/Sub pushes it: an order that was voided, or a purchase that Google has to be asked about."""
    content: dict[str, Any] = (
        {"voidedPurchaseNotification": {"purchaseToken": token, "orderId": "1", "productType": 2, "refundType": 1}}
        if voided
        else {"oneTimeProductNotification": {"purchaseToken": token, "notificationType": 2, "version": "1.0"}}
    )
    notice = {"version": "1.0", "packageName": APP, "eventTimeMillis": str(int(time.time() * 1000))} | content
    data = base64.b64encode(json.dumps(notice).encode()).decode()
    return {"message": {"data": data, "messageId": "1"}, "subscription": "s"}


def test_an_answer_of_google_that_is_late(pair: TwoHosts, play: tuple[PlayServer, str]) -> None:
    """One host still waits for Google's "purchased" while the order is voided at the other: it stays void."""
    world, (one, two) = pair
    google, _ = play
    token = "opaque-token.AO-J1OwA_late"
    google.products[token] = one_time()
    bought = {"provider": "google-play", "kind": "product", "product": "full", "token": token}
    phone = Phone(world)
    status, issued = unlock(one, phone, bought)
    assert status == 201, issued
    asked, answer = threading.Event(), threading.Event()

    def late(_: Call) -> Reply:
        """What Google knew when it was asked."""
        known = json_reply(google.products[token])
        asked.set()
        assert answer.wait(30)
        return known

    with ThreadPoolExecutor(2) as pool:
        google.failures[token] = late
        renewal = pool.submit(renew, one, phone, issued["license_id"])
        changed = pool.submit(notify, one, google_notice(token, voided=False), "google-play", push_token(time.time()))
        assert asked.wait(30)
        voided = google_notice(token, voided=True)
        assert notify(two, voided, "google-play", push_token(time.time()))[0] == 204
        answer.set()
        assert changed.result()[0] == 204
        assert codes([renewal.result()]) == {REVOKED: 1}
    del google.failures[token]
    for service in (one, two):
        assert codes([renew(service, phone, issued["license_id"])]) == {REVOKED: 1}
        assert codes([unlock(service, Phone(world), bought)]) == {REVOKED: 1}
