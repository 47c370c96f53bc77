"""Talks to one identity provider: discovery, keys, the exchange of codes."""

from __future__ import annotations

import asyncio
import base64
from dataclasses import dataclass
from typing import Any, NoReturn
from urllib.parse import quote, urlencode, urlsplit

from joserfc.jwk import KeySet

from wireroom_auth.adapters.id_token import ALGORITHMS, IdTokenError, key_id, signing_keys, validated
from wireroom_auth.adapters.oidc_http import ProviderAnswerError, ProviderHttp, ProviderRefusedError, require_endpoint
from wireroom_auth.domain.identity import has_control_characters, normalise_email
from wireroom_auth.domain.oidc import Identity, LoginSecrets, Provider, login_refused, provider_unavailable
from wireroom_common.clock import Clock
from wireroom_common.errors import WireroomError
from wireroom_common.logging import get_logger

# Seconds after which discovery and keys are read again, at the latest; and between two reads for the sake of an unknown key.
_KEEP = 3600.0
_KEYS_FLOOR = 5.0
_MAX_NAME = 100
_log = get_logger(__name__)


@dataclass(frozen=True)
class _Metadata:
    """What discovery said."""

    authorization_endpoint: str
    token_endpoint: str
    userinfo_endpoint: str
    jwks_uri: str
    algorithms: frozenset[str]
    secret_in_body: bool
    names_issuer: bool
    read_at: float


@dataclass(frozen=True)
class _Keys:
    keys: KeySet
    kids: frozenset[str | None]
    read_at: float


class OidcClient:
    """What was read once is kept for an hour; keys that are not known are looked for again, at most every few seconds."""

    def __init__(self, provider: Provider, clock: Clock, *, timeout: float) -> None:
        self._provider = provider
        self._clock = clock
        self._http = ProviderHttp(timeout)
        self._lock = asyncio.Lock()
        self._metadata: _Metadata | None = None
        self._keys: _Keys | None = None

    async def authorization_url(self, *, state: str, secrets: LoginSecrets, redirect_uri: str) -> str:
        metadata = await self._read_metadata()
        query = {
            "response_type": "code",
            "client_id": self._provider.client_id,
            "redirect_uri": redirect_uri,
            "scope": " ".join(self._provider.scopes),
            "state": state,
            "nonce": secrets.nonce,
            "code_challenge": secrets.code_challenge(),
            "code_challenge_method": "S256",
        }
        joint = "&" if urlsplit(metadata.authorization_endpoint).query else "?"
        return f"{metadata.authorization_endpoint}{joint}{urlencode(query)}"

    async def check_issuer(self, issuer: str) -> None:
        metadata = await self._read_metadata()
        if (issuer or metadata.names_issuer) and issuer != self._provider.issuer:
            self._refuse("iss parameter")

    async def redeem(self, *, code: str, secrets: LoginSecrets, redirect_uri: str) -> Identity:
        metadata = await self._read_metadata()
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "code_verifier": secrets.code_verifier,
        }
        try:
            answer = await self._http.post_form(metadata.token_endpoint, *self._authenticated(form, metadata))
        except ProviderRefusedError as error:
            if error.code in ("invalid_client", "unauthorized_client"):
                # Nobody can sign in: a matter of the settings, not of this login.
                self._unavailable(f"token endpoint: {error.code}")
            self._refuse(f"token endpoint: {error.code}")
        except ProviderAnswerError as error:
            self._unavailable(f"token endpoint: {error}")
        token, access_token = answer.get("id_token"), answer.get("access_token")
        if not isinstance(token, str):
            self._refuse("no id_token")
        claims = await self._validated(token, metadata, secrets.nonce)
        if "email" not in claims and metadata.userinfo_endpoint and isinstance(access_token, str):
            claims = {**await self._userinfo(metadata, access_token, claims["sub"]), **claims}
        return self._identity(claims)

    async def _validated(self, token: str, metadata: _Metadata, nonce: str) -> dict[str, Any]:
        try:
            keys = await self._keys_for(key_id(token), metadata)
            return validated(
                token,
                keys,
                issuer=self._provider.issuer,
                client_id=self._provider.client_id,
                nonce=nonce,
                algorithms=metadata.algorithms,
                now=self._clock.now(),
            )
        except IdTokenError as error:
            self._refuse(f"id_token: {error}")

    async def _userinfo(self, metadata: _Metadata, access_token: str, subject: str) -> dict[str, Any]:
        if not access_token.isascii() or not access_token.isprintable():
            self._refuse("access_token")
        try:
            answer = await self._http.get(metadata.userinfo_endpoint, {"authorization": f"Bearer {access_token}"})
        except ProviderAnswerError as error:
            self._unavailable(f"userinfo: {error}")
        # Core 5.3.2: without this check, one person's tokens could carry another person's claims.
        if answer.get("sub") != subject:
            self._refuse("userinfo: sub")
        return {name: answer[name] for name in ("email", "email_verified", "name") if name in answer}

    def _identity(self, claims: dict[str, Any]) -> Identity:
        try:
            email = normalise_email(claims["email"]) if isinstance(claims.get("email"), str) else ""
        except WireroomError:
            email = ""
        name = claims.get("name")
        usable = isinstance(name, str) and not has_control_characters(name)
        return Identity(
            issuer=self._provider.issuer,
            subject=claims["sub"],
            email=email,
            # Some providers write it as text; nothing but the two forms of yes is a yes.
            email_verified=bool(email) and claims.get("email_verified") in (True, "true"),
            name=str(name).strip()[:_MAX_NAME] if usable else "",
        )

    def _authenticated(self, form: dict[str, str], metadata: _Metadata) -> tuple[dict[str, str], dict[str, str]]:
        client_id, secret = self._provider.client_id, self._provider.client_secret
        if not secret:
            return {**form, "client_id": client_id}, {}
        if metadata.secret_in_body:
            return {**form, "client_id": client_id, "client_secret": secret}, {}
        # RFC 6749 section 2.3.1: both are form-encoded before they are joined.
        joined = f"{quote(client_id, safe='')}:{quote(secret, safe='')}"
        return form, {"authorization": f"Basic {base64.b64encode(joined.encode()).decode()}"}

    async def _read_metadata(self) -> _Metadata:
        known = self._metadata
        if known is not None and self._clock.monotonic() - known.read_at < _KEEP:
            return known
        async with self._lock:
            if self._metadata is None or self._metadata is known:
                try:
                    self._metadata = await self._discover()
                except ProviderAnswerError as error:
                    self._unavailable(f"discovery: {error}")
            return self._metadata

    async def _discover(self) -> _Metadata:
        issuer = self._provider.issuer
        found = await self._http.get(f"{issuer.rstrip('/')}/.well-known/openid-configuration")
        if found.get("issuer") != issuer:
            raise ProviderAnswerError("the document names another issuer")
        challenges = found.get("code_challenge_methods_supported", ["S256"])
        if not isinstance(challenges, list) or "S256" not in challenges:
            raise ProviderAnswerError("no PKCE with S256")
        methods = found.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
        listed = found.get("id_token_signing_alg_values_supported", ["RS256"])
        userinfo = found.get("userinfo_endpoint")
        return _Metadata(
            authorization_endpoint=require_endpoint(found.get("authorization_endpoint"), issuer=issuer),
            token_endpoint=require_endpoint(found.get("token_endpoint"), issuer=issuer),
            userinfo_endpoint=require_endpoint(userinfo, issuer=issuer) if userinfo else "",
            jwks_uri=require_endpoint(found.get("jwks_uri"), issuer=issuer),
            algorithms=frozenset(ALGORITHMS) & {name for name in listed if isinstance(name, str)}
            if isinstance(listed, list)
            else frozenset(),
            secret_in_body=isinstance(methods, list) and "client_secret_basic" not in methods and "client_secret_post" in methods,
            names_issuer=found.get("authorization_response_iss_parameter_supported") is True,
            read_at=self._clock.monotonic(),
        )

    async def _keys_for(self, kid: str | None, metadata: _Metadata) -> KeySet:
        known = self._keys
        if known is None or not self._fresh(known, kid):
            async with self._lock:
                if self._keys is known:
                    try:
                        found = signing_keys(await self._http.get(metadata.jwks_uri))
                    except ProviderAnswerError as error:
                        self._unavailable(f"keys: {error}")
                    self._keys = _Keys(found, frozenset(key.kid for key in found.keys), self._clock.monotonic())
        assert self._keys is not None  # noqa: S101 - set above or before
        return self._keys.keys

    def _fresh(self, known: _Keys, kid: str | None) -> bool:
        age = self._clock.monotonic() - known.read_at
        return age < _KEYS_FLOOR or (age < _KEEP and (kid is None or kid in known.kids))

    def _refuse(self, reason: str) -> NoReturn:
        _log.warning("oidc_login_refused", provider=self._provider.name, reason=reason)
        raise login_refused(f"What {self._provider.title} answered does not prove who you are.")

    def _unavailable(self, reason: str) -> NoReturn:
        _log.warning("oidc_provider_unavailable", provider=self._provider.name, reason=reason)
        raise provider_unavailable(self._provider)
