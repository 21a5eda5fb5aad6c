"""The sidecar as an OpenID Connect client of one provider: authorization request, code, ID token, UserInfo."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode, urlsplit

from sidecar.client_authentication import ClientCredentials
from sidecar.config.providers import Provider
from sidecar.config.settings import ProviderLoginSettings
from sidecar.errors import Cause, Reason, Refused, Unavailable
from sidecar.identity.claim_path import ABSENT
from sidecar.identity.claims import PrincipalPolicy
from sidecar.login.id_token import LogoutToken, TokenChecks
from sidecar.login.metadata import MetadataSource, ProviderMetadata
from sidecar.login.transaction import Attempt
from sidecar.outbound import Answer, ControlClient, OutboundError
from sidecar.sessions.records import SessionContent, kept_claims
from sidecar.tokens.jwt.compact import strict_json

_MAX_BYTES = 256 * 1024
_MAX_URL = 8192
_TOKEN_TYPES = frozenset({"bearer", "dpop"})
_ERRORS = (400, 401)
_MAX_REFRESH_TOKEN = 8192
_VISIBLE = re.compile(r"[ -~]+").fullmatch
# Of the login, which only an ID token states: claims of UserInfo may be those of a profile that its owner edits.
_OF_THE_LOGIN = frozenset({"acr", "amr", "auth_time", "nonce", "sid"})
_CLIENT_ERRORS = frozenset({"invalid_client", "unauthorized_client"})


@dataclass(frozen=True, slots=True)
class Person:
    """Who has logged in: verified claims, and the ID token that they come from."""

    issuer: str
    claims: Mapping[str, Any]
    id_token: str = field(repr=False)
    issued_at: float
    refresh_token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class RefreshAnswer:
    """What a refresh has brought. ``id_token`` is empty where there was none."""

    access_token: str = field(repr=False)
    refresh_token: str = field(repr=False)
    id_token: str = field(default="", repr=False)


class ProviderClient:
    """The client of ``provider``, which has a login. ``secret`` and ``algorithm``: see :class:`ClientCredentials`."""

    def __init__(
        self,
        provider: Provider,
        login: ProviderLoginSettings,
        policy: PrincipalPolicy,
        metadata: MetadataSource,
        checks: TokenChecks,
        control: ControlClient,
        redirect_uri: str,
        *,
        within: float,
        secret: Any = "",
        algorithm: str = "",
    ) -> None:
        self.name = provider.name
        self.display_name = login.display_name or provider.name
        self.issuer = provider.issuer or ""
        self.policy = policy
        self.redirect_uri = redirect_uri
        self._provider = provider
        self._login = login
        self._metadata = metadata
        self._checks = checks
        self._control = control
        self._within = within
        self._secret = secret
        self._algorithm = algorithm

    async def metadata(self) -> ProviderMetadata:
        """The provider's endpoints. Raises Unavailable."""
        return await self._metadata.get()

    async def authorization_url(self, attempt: Attempt, state: str) -> str:
        """Where the browser is led for ``attempt``. Raises Unavailable, and Refused(LOGIN_FAILED)."""
        metadata = await self._metadata.get()
        parameters = self._parameters(attempt, state)
        login = self._login
        if login.pushed == "always" or (login.pushed == "required" and metadata.requires_pushed):
            parameters = {
                "client_id": login.client_id,
                "request_uri": await self._push(metadata, parameters),
            }
        endpoint = metadata.authorization_endpoint
        url = f"{endpoint}{'&' if urlsplit(endpoint).query else '?'}{urlencode(parameters)}"
        if len(url) > _MAX_URL:
            raise Refused(Reason.LOGIN_FAILED, Cause.STATE_INVALID, "the authorization request is too long")
        return url

    async def redeem(self, code: str, attempt: Attempt) -> Person:
        """The person whom ``code`` stands for. The code is sent once (RFC 6749 section 4.1.2).

        Raises Refused(LOGIN_FAILED), and Unavailable if the provider does not answer.
        """
        metadata = await self._metadata.get()
        answer = await self._post(
            metadata,
            metadata.token_endpoint,
            {
                "grant_type": "authorization_code",
                "code": code,
                "redirect_uri": self.redirect_uri,
                "client_id": self._login.client_id,
                "code_verifier": attempt.verifier,
            },
        )
        document = _object(answer.body)
        if answer.status in _ERRORS:
            error = document.get("error")
            cause = Cause.CLIENT_REFUSED if error in _CLIENT_ERRORS else Cause.CODE_REFUSED
            raise Refused(Reason.LOGIN_FAILED, cause, _shown(error))
        access_token, id_token = _access_token(document), document.get("id_token")
        if not isinstance(id_token, str):
            raise _bad_answer("the token response has no id_token")
        claims = await self._checks.id_token(
            id_token, metadata.issuer, nonce=attempt.nonce, access_token=access_token, demand=attempt.demand
        )
        issued_at = float(claims["iat"])
        if self._needs_userinfo(claims):
            claims = {**await self._userinfo(metadata, access_token, claims["sub"]), **claims}
        return Person(metadata.issuer, claims, id_token, issued_at, _refresh_token(document))

    @property
    def refreshes(self) -> bool:
        """Whether refresh tokens of the provider are used."""
        return self._login.refresh == "auto"

    async def refresh(self, content: SessionContent) -> RefreshAnswer:
        """Use the refresh token of a session, once. The answer is not verified yet.

        Raises Refused: with CLIENT_REFUSED the provider refuses the sidecar, with others the session has ended there;
        and Unavailable, also for errors that say nothing about the session.
        """
        metadata = await self._metadata.get()
        if metadata.issuer != content.issuer:
            raise Refused(Reason.LOGIN_FAILED, Cause.ISSUER)
        parameters = {
            "grant_type": "refresh_token",
            "refresh_token": content.refresh_token,
            "client_id": self._login.client_id,
        }
        answer = await self._post(metadata, metadata.token_endpoint, parameters)
        try:
            document = _object(answer.body)
            if answer.status in _ERRORS:
                error = document.get("error")
                if error in _CLIENT_ERRORS:
                    raise Refused(Reason.LOGIN_FAILED, Cause.CLIENT_REFUSED, _shown(error))
                if error == "invalid_grant":
                    raise Refused(Reason.LOGIN_FAILED, Cause.CODE_REFUSED, _shown(error))
                raise _bad_answer(_shown(error))
            access_token, id_token = _access_token(document), document.get("id_token")
        except Refused as failure:
            if failure.cause is not Cause.PROVIDER_ANSWER:
                raise
            detail = f"provider {self.name}: {metadata.token_endpoint}: {failure.detail}"
            raise Unavailable(Cause.PROVIDER_UNAVAILABLE, detail) from failure
        return RefreshAnswer(
            access_token,
            _refresh_token(document) or content.refresh_token,
            id_token if isinstance(id_token, str) else "",
        )

    async def refreshed_claims(self, content: SessionContent, answer: RefreshAnswer) -> dict[str, Any]:
        """The claims that a session has after a refresh, verified. Raises Refused, Unavailable."""
        metadata = await self._metadata.get()
        claims: dict[str, Any] = {}
        if answer.id_token:
            found = await self._checks.refreshed_id_token(
                answer.id_token, metadata.issuer, before=content, access_token=answer.access_token
            )
            claims = {"sid": found.get("sid", ""), **kept_claims(found)}
            if not self._needs_userinfo(found):
                return claims
        more = await self._userinfo(metadata, answer.access_token, content.subject)
        if answer.id_token:
            return {**kept_claims(more), **claims}
        return {**content.claims, **kept_claims(more)}

    async def revoke(self, refresh_token: str) -> None:
        """RFC 7009: the provider may forget ``refresh_token``. Raises Unavailable."""
        metadata = await self._metadata.get()
        if metadata.revocation_endpoint:
            parameters = {"token": refresh_token, "token_type_hint": "refresh_token"}
            await self._post(metadata, metadata.revocation_endpoint, parameters)

    async def logout_token(self, text: str) -> LogoutToken:
        """A verified logout token. Raises Refused, Unavailable."""
        return await self._checks.logout_token(text, (await self._metadata.get()).issuer)

    async def end_session_url(self, id_token: str, return_to: str) -> str:
        """Where the browser is led to end the session at the provider; empty: the provider has no such endpoint.

        Raises Unavailable.
        """
        endpoint = (await self._metadata.get()).end_session_endpoint
        if not endpoint:
            return ""
        parameters = {"client_id": self._login.client_id, "post_logout_redirect_uri": return_to}
        if id_token:
            parameters["id_token_hint"] = id_token
        return f"{endpoint}{'&' if urlsplit(endpoint).query else '?'}{urlencode(parameters)}"

    async def probe(self) -> str:
        """What is wrong with client id, secret or redirect URI, found out without a browser; empty: nothing.

        Raises Unavailable.
        """
        metadata = await self._metadata.get()
        if metadata.pushed_endpoint and self._login.pushed != "never":
            attempt = Attempt(self.name, "/", b"check", "check")
            answer = await self._post(metadata, metadata.pushed_endpoint, self._parameters(attempt, "check"))
            what = f"a pushed request at {metadata.pushed_endpoint}"
            good = answer.status == 201
        else:
            answer = await self._post(
                metadata,
                metadata.token_endpoint,
                {
                    "grant_type": "authorization_code",
                    "code": "auth-sidecar-check",
                    "redirect_uri": self.redirect_uri,
                    "client_id": self._login.client_id,
                    "code_verifier": "auth-sidecar-check-auth-sidecar-check-auth-sidecar",
                },
            )
            what = f"a made-up code at {metadata.token_endpoint}"
            good = answer.status in _ERRORS and _error(answer) == "invalid_grant"
        if good:
            return ""
        return (
            f"client {self._login.client_id!r} with redirect URI {self.redirect_uri}: {what} was answered "
            f"{answer.status} {_error(answer) or 'without an error'}; {_mend(_error(answer))}"
        )

    def _parameters(self, attempt: Attempt, state: str) -> dict[str, str]:
        login, demand = self._login, attempt.demand
        parameters = {
            **login.extra_parameters,
            "response_type": "code",
            "client_id": login.client_id,
            "redirect_uri": self.redirect_uri,
            "scope": " ".join(login.scopes),
            "state": state,
            "nonce": attempt.nonce,
            "code_challenge": attempt.challenge,
            "code_challenge_method": "S256",
        }
        prompt, acr_values = demand.prompt or login.prompt, demand.acr_values or login.acr_values
        ages = [age for age in (login.max_age, demand.max_age) if age is not None]
        if prompt:
            parameters["prompt"] = prompt
        if ages:
            parameters["max_age"] = str(int(min(ages)))
        if acr_values:
            parameters["acr_values"] = " ".join(acr_values)
        return parameters

    async def _push(self, metadata: ProviderMetadata, parameters: Mapping[str, str]) -> str:
        """RFC 9126: the ``request_uri`` that stands for ``parameters``."""
        if not metadata.pushed_endpoint:
            raise Unavailable(
                Cause.PROVIDER_UNAVAILABLE, f"provider {self.name}: no pushed_authorization_request_endpoint"
            )
        answer = await self._post(metadata, metadata.pushed_endpoint, parameters)
        found = _object(answer.body).get("request_uri")
        if answer.status in _ERRORS:
            raise Refused(Reason.LOGIN_FAILED, Cause.CLIENT_REFUSED, _shown(_error(answer)))
        if not isinstance(found, str) or not found:
            raise _bad_answer("the pushed request was answered without a request_uri")
        return found

    async def _post(self, metadata: ProviderMetadata, url: str, parameters: Mapping[str, str]) -> Answer:
        credentials = ClientCredentials(self._login.client_id, self._method(metadata), self._secret, self._algorithm)
        headers, body = credentials.sign_request(url, metadata.issuer, urlencode(parameters))
        try:
            return await self._control.post(
                url,
                body.encode(),
                headers,
                within=self._within,
                max_bytes=_MAX_BYTES,
                allow_insecure=self._provider.allow_insecure_urls,
                accept=(200, 201, *_ERRORS),
            )
        except OutboundError as error:
            raise self._unavailable(url, error) from error

    def _method(self, metadata: ProviderMetadata) -> str:
        written = self._login.client_authentication
        if written != "auto":
            return written
        if self._algorithm:
            return "private_key_jwt"
        if not self._secret:
            return "none"
        listed = metadata.authentication_methods
        only_post = "client_secret_post" in listed and "client_secret_basic" not in listed
        return "client_secret_post" if only_post else "client_secret_basic"

    def _needs_userinfo(self, claims: Mapping[str, Any]) -> bool:
        if self._login.userinfo != "auto":
            return self._login.userinfo == "always"
        policy = self.policy
        named = (policy.username_claim, policy.email_claim) if policy.username_claim else policy.principal_claims
        is_named = any(path is not None and path.find(claims) is not ABSENT for path in named)
        groups = policy.groups_claim
        return not is_named or (groups is not None and groups.find(claims) is ABSENT)

    async def _userinfo(self, metadata: ProviderMetadata, access_token: str, subject: str) -> dict[str, Any]:
        """OpenID Connect Core 5.3: claims of the same ``sub`` only, without those that describe the login."""
        url = metadata.userinfo_endpoint
        if not url:
            return {}
        try:
            answer = await self._control.get(
                url,
                within=self._within,
                max_bytes=_MAX_BYTES,
                allow_insecure=self._provider.allow_insecure_urls,
                headers={"Authorization": f"Bearer {access_token}", "Accept": "application/json"},
            )
        except OutboundError as error:
            raise self._unavailable(url, error) from error
        claims = _object(answer.body)
        if claims.get("sub") != subject:
            raise Refused(Reason.LOGIN_FAILED, Cause.USERINFO_SUBJECT)
        return {name: value for name, value in claims.items() if name not in _OF_THE_LOGIN}

    def _unavailable(self, url: str, error: OutboundError) -> Unavailable:
        return Unavailable(Cause.PROVIDER_UNAVAILABLE, f"provider {self.name}: {url}: {error.kind}: {error.detail}")


def _object(body: bytes) -> dict[str, Any]:
    """A JSON object; anything else is a fault of the provider. Raises Refused."""
    try:
        value = strict_json(body)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise _bad_answer("the answer is no JSON object")
    return value


def _access_token(document: Mapping[str, Any]) -> str:
    """That of a token response. Raises Refused."""
    token, kind = document.get("access_token"), document.get("token_type")
    if not isinstance(token, str) or not token:
        raise _bad_answer("the token response has no access_token")
    if not isinstance(kind, str) or kind.lower() not in _TOKEN_TYPES:
        raise _bad_answer("token_type is neither Bearer nor DPoP")
    return token


def _refresh_token(document: Mapping[str, Any]) -> str:
    """That of a token response (RFC 6749 appendix A.17); empty: there is none that can be used."""
    token = document.get("refresh_token")
    return token if isinstance(token, str) and len(token) <= _MAX_REFRESH_TOKEN and _VISIBLE(token) else ""


def _error(answer: Answer) -> str:
    try:
        error = json.loads(answer.body).get("error", "")
    except (ValueError, AttributeError):
        return ""
    return _shown(error)


def _shown(error: object) -> str:
    """An ``error`` of RFC 6749 for log and command line: only its own alphabet, and short."""
    return (
        error
        if isinstance(error, str) and error.isascii() and error.replace("_", "").isalnum() and len(error) <= 64
        else "an error that cannot be shown"
    )


def _mend(error: str) -> str:
    if error in ("invalid_client", "unauthorized_client"):
        return "compare login.clientId, login.clientSecret and login.clientAuthentication with the registration"
    if error in ("invalid_request", "invalid_redirect_uri"):
        return "register exactly this redirect URI"
    return "compare the registration of the client at the provider"


def _bad_answer(detail: str) -> Refused:
    return Refused(Reason.LOGIN_FAILED, Cause.PROVIDER_ANSWER, detail)
