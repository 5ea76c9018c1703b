"""Notices of the stores: what they tell on their own about refunds, renewals and upgrades.

Any number of times and in any order: a notice leads to a statement of the store, and statements are taken in by their
own time (`entitlements.observe`). About a purchase that nobody has shown yet too: a refund may come first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from corelocker.bundle.strict_json import parse_object
from corelocker.licensing.errors import AppUnknownError, ProviderNotAllowedError, PurchaseNotFoundError, RequestError
from corelocker.purchases.entitlements import Catalog, Purchase
from corelocker.purchases.google_play import GooglePlay
from corelocker.service.audit import RefusalLog, one_line
from corelocker.service.records import AuditRow, PurchaseKey
from corelocker.service.statements import observe_all, replaced_by
from corelocker.service.storage import Storage
from corelocker.service.verifiers import AppVerifiers


class Notices:
    """Takes in what stores say without being asked by a device."""

    def __init__(
        self,
        storage: Storage,
        apps: Mapping[str, AppVerifiers],
        catalog: Catalog,
        refusals: RefusalLog,
        clock: Callable[[], float],
    ) -> None:
        self._storage = storage
        self._refusals = refusals
        self._apps = apps
        self._products = {product for _, product in catalog.products}
        self._clock = clock

    def app_store(self, app: str, body: bytes) -> None:
        """Take in an App Store Server Notification, {"signedPayload": JWS}.

        Raises AppUnknownError, ProviderNotAllowedError, RequestError, and what `AppStore.notice` raises.
        """
        now_ms = int(self._clock() * 1000)
        row = AuditRow(event="notice", outcome="ok", at_ms=now_ms, app=one_line(app)[:256], provider="app-store")
        with self._refusals.keeping(row):
            store = self._app(app).app_store
            if store is None:
                raise ProviderNotAllowedError("the app takes no App Store purchases")
            try:
                payload = parse_object(body).get("signedPayload")
            except ValueError:
                raise RequestError("the notification is not a JSON object") from None
            notice = store.notice(payload, now_ms=now_ms)
        row = replace(row, detail=one_line(notice.kind))
        self.take_in(row, () if notice.purchase is None else (notice.purchase,))

    def google_play(self, app: str, authorization: str | None, body: bytes) -> None:
        """Take in a real-time developer notification as Pub/Sub pushes it: ask Google what it is about.

        Raises AppUnknownError, ProviderNotAllowedError, PurchaseNoticeError, and what `GooglePlay.refresh` raises.
        """
        now_ms = int(self._clock() * 1000)
        row = AuditRow(event="notice", outcome="ok", at_ms=now_ms, app=one_line(app)[:256], provider="google-play")
        with self._refusals.keeping(row):
            verifiers = self._app(app)
            play, notices = verifiers.google_play, verifiers.play_notices
            if play is None or notices is None:
                raise ProviderNotAllowedError("the app takes no notifications of Google Play")
            notice = notices.read(authorization, body, now=now_ms // 1000)
            row = replace(row, detail=f"{notice.subject}, voided" if notice.voided else notice.subject)
            statements: list[Purchase] = []
            if notice.purchase_id is not None:
                package = verifiers.config.purchase_app("google-play")
                key = PurchaseKey("google-play", package, notice.purchase_id)
                statements = self.ask_google(play, key, notice.event_ms if notice.voided else None, now_ms)
        self.take_in(row, statements)

    def ask_google(self, play: GooglePlay, key: PurchaseKey, voided_ms: int | None, now_ms: int) -> list[Purchase]:
        """What Google says now about a purchase that is known here, or that its order was voided at a time.

        Nothing where Google has forgotten the purchase. Raises what `GooglePlay.refresh` raises.
        """
        stored = self._storage.entitlement(key)
        statements: list[Purchase] = []
        for known in () if stored is None else stored.entitlement.purchases:
            try:
                if voided_ms is None:
                    statements.append(play.refresh(known, now_ms=now_ms))
                else:
                    statements.append(play.void(known, voided_ms, now_ms=now_ms))
            except PurchaseNotFoundError:
                continue
        return statements

    def take_in(self, row: AuditRow, statements: Sequence[Purchase]) -> None:
        """Keep what a store has said, with a row in the audit log."""
        statements = [purchase for purchase in statements if self._concerns(purchase)]
        with self._storage.transaction() as transaction:
            keys = {PurchaseKey.of(purchase) for purchase in statements}
            before = transaction.entitlements([*keys, *replaced_by(statements)])
            after = observe_all({key: stored.entitlement for key, stored in before.items()}, statements)
            for key, stored in before.items():
                if after[key] != stored.entitlement:
                    transaction.save(replace(stored, entitlement=after[key]))
            transaction.audit(replace(row, purchase=next((key.tag for key in keys), None)))

    def _concerns(self, purchase: Purchase) -> bool:
        """Whether the purchase is of something that is sold here."""
        return purchase.product in self._products or self._storage.entitlement(PurchaseKey.of(purchase)) is not None

    def _app(self, name: str) -> AppVerifiers:
        app = self._apps.get(name)
        if app is None:
            raise AppUnknownError("this service does not know the app")
        return app
