"""An API of Google, asked with a service account's access token."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Mapping
from datetime import UTC
from typing import Any

import google.auth.credentials
import google.auth.exceptions
from google.auth.transport.requests import Request
from google.oauth2 import service_account

from corelocker.errors import ConfigError
from corelocker.licensing.errors import PurchaseUpstreamDeniedError, PurchaseUpstreamError
from corelocker.licensing.http_client import Answer, new_session
from corelocker.purchases.refreshed import Fetched, Refreshed
from corelocker.purchases.upstream import ask

# Seconds: how long a token without an end is used, and how long before its end another is fetched and it is not used.
_TOKEN_SECONDS = 3600
_TOKEN_EARLY = 240
_TOKEN_LAST = 15


def credentials_of(account: Mapping[str, str], scope: str) -> google.auth.credentials.Credentials:
    """The credentials of a service account, from the parsed JSON key file. Raises ConfigError when it is not one."""
    try:
        load: Any = service_account.Credentials.from_service_account_info
        loaded: google.auth.credentials.Credentials = load(account, scopes=[scope])
    except (ValueError, KeyError, TypeError):
        raise ConfigError("the key file of the Google service account cannot be used") from None
    return loaded


class GoogleApi:
    """Asks an API of Google, signed in with `credentials`; `timeout` as of `upstream.ask`. May be used by several threads."""

    def __init__(self, credentials: google.auth.credentials.Credentials, timeout: float) -> None:
        self.credentials = credentials
        self._timeout = timeout
        self._local = threading.local()
        self._token = Refreshed(
            self._sign_in,
            wait=timeout,
            otherwise=lambda: PurchaseUpstreamError("the store's sign-in does not answer in time"),
            first=self._fetched(time.time()) if credentials.valid else None,
        )

    def ask(
        self,
        method: str,
        url: str,
        parameters: Mapping[str, str | list[str]] | None = None,
        body: Mapping[str, str] | None = None,
    ) -> Answer:
        """What the API answers, also when it refuses. Raises PurchaseUpstreamError or PurchaseUpstreamDeniedError."""
        # Sessions are not made for several threads; the credentials, and with them the access token, are shared.
        if not hasattr(self._local, "session"):
            self._local.session = new_session()
        session, refused = self._local.session, None
        while True:
            token = self._token.get(time.time(), refused=refused)
            headers = {"Authorization": f"Bearer {token}"}
            answer = ask(
                session, method, url, timeout=self._timeout, headers=headers, params=parameters, json_body=body
            )
            if answer.status_code != 401 or refused is not None:
                return answer
            refused = token

    def _sign_in(self, now: float) -> Fetched[str]:
        """A new access token.

        The token is used directly: google-auth's own session and `before_request` start threads that ask another
        service of Google about regions.
        """
        credentials: Any = self.credentials
        try:
            with new_session() as session:
                credentials.refresh(functools.partial(Request(session), timeout=self._timeout))
            return self._fetched(now)
        except google.auth.exceptions.TransportError:
            raise PurchaseUpstreamError("the store's sign-in cannot be reached") from None
        except google.auth.exceptions.GoogleAuthError as error:
            if error.retryable:
                raise PurchaseUpstreamError("the store's sign-in does not work now") from None
            raise PurchaseUpstreamDeniedError("the store refuses the service's credentials") from None
        except (TypeError, ValueError, KeyError, AttributeError):
            # google-auth takes what the sign-in answers for JSON of the right shape.
            raise PurchaseUpstreamError("the store's sign-in answers what it does not document") from None

    def _fetched(self, now: float) -> Fetched[str]:
        expiry = self.credentials.expiry
        end = now + _TOKEN_SECONDS if expiry is None else expiry.replace(tzinfo=UTC).timestamp()
        return Fetched(str(self.credentials.token), now, end - _TOKEN_EARLY, end - _TOKEN_LAST)
