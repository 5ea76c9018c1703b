"""The unlock service without HTTP: its parts, put together.

challenges   nonces of requests
decisions    first unlocks and renewals; reads proofs with `proofs`, and decides in one transaction of `storage`
notices      what stores tell on their own
maintenance  what no request waits for
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from corelocker.attestation.revocation import check_revocation
from corelocker.attestation.verdict import Refusal
from corelocker.errors import ConfigError
from corelocker.licensing.errors import NotReadyError
from corelocker.service.audit import RefusalLog
from corelocker.service.challenges import Challenges
from corelocker.service.config import ServiceConfig
from corelocker.service.decisions import Decisions
from corelocker.service.keys import KeyProvider
from corelocker.service.limits import RateLimiter, make_purchase_limiter
from corelocker.service.maintenance import Maintenance
from corelocker.service.notices import Notices
from corelocker.service.proofs import ProofVerifier, moment
from corelocker.service.revocation_source import RevocationSource
from corelocker.service.storage import Storage
from corelocker.service.verifiers import AppVerifiers, build_verifiers


class UnlockService:
    """The parts of a service on one database; used by several threads, and by several processes.

    Attributes:
        config: what the operator wants.
        apps: by app, what its proofs and purchases are verified with.
        challenges, decisions, notices, maintenance: what the service does.

    Args:
        config: what the operator wants.
        storage: an open database of the present version.
        keys: the service's signing key and the content keys.
        clock: gives the time, Unix seconds.
        verifiers: by app, in place of those that the configuration describes.
        limiter: of purchases, where several processes share one.

    Raises ConfigError for a configuration that makes no sense, or a database that belongs to another environment.
    """

    def __init__(
        self,
        config: ServiceConfig,
        storage: Storage,
        keys: KeyProvider,
        *,
        clock: Callable[[], float] = time.time,
        verifiers: Mapping[str, AppVerifiers] | None = None,
        limiter: RateLimiter | None = None,
    ) -> None:
        self.config = config
        self._storage = storage
        self._keys = keys
        self._clock = clock
        self.apps = verifiers or {name: build_verifiers(config, app) for name, app in config.apps.items()}
        catalog = config.catalog({name: bundle.tiers for name, bundle in keys.bundles.items()})
        self._revocation = RevocationSource(config.attestation)
        self.challenges = Challenges(storage.secret(), config.attestation.challenge_lifetime, clock)
        proofs = ProofVerifier(config.environment, self.challenges, storage, self._revocation)
        refusals = RefusalLog(storage)
        limiter = limiter or make_purchase_limiter(config.licenses)
        self.decisions = Decisions(
            config, storage, keys, self.apps, catalog, self.challenges, proofs, refusals, limiter, clock
        )
        self.notices = Notices(storage, self.apps, catalog, refusals, clock)
        self.maintenance = Maintenance(
            storage, self.apps, self.notices, self._revocation, refusals, config.audit, clock
        )
        storage.new_setting("environment", config.environment)
        if storage.setting("environment") != config.environment:
            raise ConfigError(
                f"the database belongs to another environment than {config.environment}",
                hint="Give each environment a database of its own",
            )

    def ready(self) -> None:
        """Raises StorageError, NotReadyError or a KeystoreError when requests cannot be decided now."""
        self._storage.check_writable()
        self._keys.check()
        now = self._clock()
        for app in self.apps.values():
            if app.android is not None:
                try:
                    check_revocation((), self._revocation.current(now), moment(now), app.android.max_revocation_age)
                except Refusal as refusal:
                    raise NotReadyError(refusal.detail) from None
