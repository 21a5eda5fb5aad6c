"""What each cause means and what to do about it, for the page that operators look causes up on."""

from collections.abc import Mapping

from sidecar.errors import Cause

CAUSES: Mapping[Cause, tuple[str, str]] = {
    Cause.CREDENTIALS_ABSENT: (
        "the request has no credentials, and no rule opens its path",
        "have the client send `Authorization: Bearer <token>` and the proxy pass it on, or open the path with a rule",
    ),
    Cause.CREDENTIALS_MULTIPLE: (
        "the request has credentials in more than one place",
        "send one; for a header that a proxy adds to every request, set `ambient: true` in `tokenHeaders`",
    ),
    Cause.SCHEME_UNKNOWN: (
        "no authenticator reads this scheme of `Authorization`",
        "send `Bearer`, or configure an authenticator for it (`basic`, `ldap`)",
    ),
    Cause.CREDENTIALS_MALFORMED: (
        "the credentials of `Basic` cannot be decoded",
        "encode `user:password` in base64, as UTF-8",
    ),
    Cause.CREDENTIALS_WRONG: (
        "user name or password is wrong",
        "check the password file, the directory, or `systemClientSecret`; `authenticator` says which",
    ),
    Cause.INACTIVE: (
        "the introspection endpoint or the cluster says that the token is not active",
        "get a new token; if all are inactive, check that the endpoint belongs to their issuer",
    ),
    Cause.PATH_AMBIGUOUS: (
        "the path can be read in several ways, or the proxy did not send the original request; `detail` has the header",
        "in check mode, use the configuration in `deploy/` and the endpoint of your proxy; else send a plain path",
    ),
    Cause.METHOD_AMBIGUOUS: (
        "a header of the request names another method",
        "do not send `X-HTTP-Method-Override` and the like, or send a valid method in it",
    ),
    Cause.RULE: (
        "the call of the API is for admins, or for the owner of the token",
        "use the credentials of an admin (`adminPrincipals`), or of the token's owner",
    ),
    Cause.RULE_ADMIN: (
        "`rule` requires an admin",
        "add the caller to `adminPrincipals`, as `<provider>/<name>`; `sidecar check` reports names without effect",
    ),
    Cause.RULE_GROUPS: (
        "`rule` requires a group that the caller does not have; `detail` has both",
        "add the caller to the group; if the caller has no groups at all, set `groupsClaim` of the provider",
    ),
    Cause.RULE_ROLES: (
        "`rule` requires a role that the caller does not have; `detail` has both",
        "as for `rule_groups`, with `rolesClaim`",
    ),
    Cause.RULE_ACTOR_TYPE: (
        "`rule` requires another type of Actor",
        "use a token of a user or of a service; `actorType` of the provider says which its tokens are",
    ),
    Cause.RULE_PROVIDER: (
        "`rule` requires another provider",
        "use a token of that provider, or add the provider to `require.providers`",
    ),
    Cause.RULE_CLIENT: (
        "`rule` requires another OAuth client; `detail` has that of the token",
        "add the client to `require.clients`; `clientClaims` of the provider says which claim names it",
    ),
    Cause.RULE_AGENT: (
        "`rule` forbids or requires a token with which an agent acts for the caller (`act`)",
        "use a token without an agent, or one of an issuer that may set `act` (`trustAct`)",
    ),
    Cause.RULE_SCOPE: (
        "the token lacks a scope that `rule` requires; `detail` has both",
        "request the scopes in the challenge; if the client may not have them, allow them at the provider",
    ),
    Cause.CONDITION_INVALID: (
        "the query of the check has a parameter that is unknown or cannot be read",
        "use `allowed_groups`, `allowed_emails`, `allowed_email_domains` only; with Caddy, end `uri` with `?`",
    ),
    Cause.CONDITION_GROUPS: (
        "the caller has none of the groups in `allowed_groups`",
        "as for `rule_groups`; the condition is in the proxy's configuration",
    ),
    Cause.CONDITION_EMAILS: (
        "the caller's address is not in `allowed_emails`, or the token has no verified address",
        "correct the list in the proxy's configuration; check `emailClaim` of the provider and `email_verified`",
    ),
    Cause.CONDITION_EMAIL_DOMAINS: (
        "the domain of the caller's address is not in `allowed_email_domains`, or the token has no verified address",
        "as for `condition_emails`",
    ),
    Cause.PEER_UNTRUSTED: (
        "a check comes from an address that is not in `server.trustedProxies`, and a rule has a `require`",
        "add the address in `detail`, which must be the proxy's, to `server.trustedProxies`",
    ),
    Cause.TOKEN_SIZE: (
        "the credential is longer than `server.limits.maxTokenBytes`",
        "raise the limit, or have the provider put fewer groups into its tokens",
    ),
    Cause.ENCODING: (
        "a part of the token is not base64url, UTF-8 or JSON",
        "check that the client does not cut or quote it",
    ),
    Cause.HEADER: (
        "the header of the token, or a header that carries it, is not valid; `detail` names the part",
        "check what the client sends; a subprotocol with a token needs another one beside it",
    ),
    Cause.CLAIM_TYPE: ("a claim has the wrong type; `detail` names it", "correct the claim at the issuer"),
    Cause.NOT_A_JWT: (
        "the token is not a JWT: opaque, encrypted, or cut off",
        "have the issuer create JWTs (Auth0: request an audience of your own), or configure `introspection`",
    ),
    Cause.UNRESOLVED_REFERENCE: (
        "the token is the reference `secret:<id>`: OpenMetadata's client could not look it up in its secrets manager",
        "read the log of the client, and let it read the secret",
    ),
    Cause.ISSUER: (
        "`iss` is none of the configured issuers; `detail` has both, often different by a final slash",
        "set `issuer` of a provider to exactly this value if you trust it; Entra ID has one for each token version",
    ),
    Cause.ALGORITHM: (
        "`alg` is not allowed for this issuer; `detail` has both",
        "add it to `algorithms` of the provider, or `tokenValidationAlgorithm`; HS256 is for DataHub's tokens only",
    ),
    Cause.TOKEN_TYPE: (
        "it is a token of another kind, such as an ID, logout or refresh token",
        "send the access token",
    ),
    Cause.CRITICAL_HEADER: ("the header has `crit` or `b64`, which are not supported", "have the issuer omit them"),
    Cause.UNKNOWN_KID: (
        "the issuer publishes no key with the `kid` in `detail`",
        "check that the token is of this environment; keys are fetched again after a rotation, at most once a minute",
    ),
    Cause.KEY_UNUSABLE: (
        "the key with this `kid` is for another algorithm or use",
        "compare `alg` and `use` in the key set with `alg` of the token",
    ),
    Cause.SIGNATURE: (
        "the signature does not belong to the key",
        "check that the token is complete; Entra ID: only Microsoft Graph can verify tokens for Microsoft Graph",
    ),
    Cause.AUDIENCE: (
        "`aud` is none of the accepted audiences; `detail` has both",
        "request the token for this API, or add its `aud` to `audiences` of the provider (`clientId` in the flat form)",
    ),
    Cause.RESOURCE_AUDIENCE: (
        "`aud` is none of the audiences of the protected resource; `detail` has both",
        "have the provider put one of them into the token (audience mapper), or add its `aud` to the resource",
    ),
    Cause.REQUIRED_CLAIM: (
        "a claim that `requiredClaims` demands is missing or has another value; `detail` names it",
        "correct `requiredClaims`, or the claim at the issuer",
    ),
    Cause.EXPIRY_MISSING: (
        "the token has no `exp`",
        "have the issuer set it, or set `allowMissingExpiry` of the provider",
    ),
    Cause.LIFETIME: (
        "the token is valid for longer than `maxTokenLifetime`",
        "shorten it at the issuer, or raise the limit",
    ),
    Cause.EXPIRED: (
        "`exp` has passed; `detail` says since when",
        "get a new token; if it is seconds, compare the clocks, or set `clockSkew`",
    ),
    Cause.NOT_YET_VALID: ("`nbf` is in the future; `detail` says how far", "compare the clocks, or set `clockSkew`"),
    Cause.ISSUED_IN_FUTURE: ("`iat` is in the future; `detail` says how far", "compare the clocks, or set `clockSkew`"),
    Cause.PROOF_OF_POSSESSION: (
        "the token is bound to a key or client certificate that the request does not have",
        "send the certificate, and set `server.clientCertificates` to where it is; DPoP is not supported",
    ),
    Cause.TOKEN_PLACE: (
        "the header in which the token stands is not for tokens of its provider",
        "add the provider to `providers` of this entry of `tokenHeaders`, or send the token in `Authorization`",
    ),
    Cause.PUBLISHED_SECRET: (
        "the token was signed with a key that the products publish",
        "give the server a key pair of its own; `allowPublishedSecrets` is for demonstrations only",
    ),
    Cause.UPSTREAM_ONLY: (
        "the token was minted for the upstream and is not accepted from callers",
        "find out how the client got it: only the upstream receives such tokens",
    ),
    Cause.RECORD_HEADERS: (
        "the name of a record header is not UTF-8",
        "correct the client that writes to the inbound topic of the gate",
    ),
    Cause.RECORD_SIZE: (
        "the record with the headers of its Actor is larger than `maxRecordBytes`, or `max.message.bytes` of the topic",
        "raise both limits; the second should be the larger one",
    ),
    Cause.DENIED: (
        "the token is on the revocation list; `detail` has the scope of the entry",
        "get a new token; `sidecar revocations list` shows the entry",
    ),
    Cause.NOT_ON_RECORD: (
        "an issued token that is not in the store",
        "check that all replicas use one store, and that it is no older backup; mint a new token",
    ),
    Cause.RECORD_REVOKED: ("an issued token that was revoked", "mint a new one; `sidecar token list` shows the record"),
    Cause.RECORD_MISMATCH: (
        "the token has the id of a record but is another token",
        "treat the signing key as leaked if you did not mint it: `sidecar keys rotate`",
    ),
    Cause.BOT_TOKEN_REPLACED: (
        "the bot has a newer token",
        "give the client the new one",
    ),
    Cause.SESSION_UNKNOWN: (
        "no session has this cookie; its record is removed some time after the session has ended",
        "sign in again; if it affects all users, check that the replicas share one store",
    ),
    Cause.SESSION_EXPIRED: (
        "the session is older than `login.session.maxAge`",
        "sign in again",
    ),
    Cause.SESSION_IDLE: (
        "the session was not used for `login.session.idle`",
        "sign in again",
    ),
    Cause.SESSION_REVOKED: (
        "the session was ended by a logout, a command, a newer login, a rejected refresh, or `login.session.perPerson`",
        "sign in again; the audit line `session_ended` says by whom",
    ),
    Cause.SESSION_UNSEALED: (
        "none of `login.secrets` opens the content of the session",
        "give all replicas the same `login.secrets`; after a change, keep the previous secret as the second",
    ),
    Cause.COOKIE_TWICE: (
        "the request has the session cookie more than once, or with a value of another form",
        "sign out and in again; find the other program that sets a cookie of this name, or set `login.cookie.name`",
    ),
    Cause.ORIGIN: (
        "no accepted page sent the request, and with the session cookie it needs one; `detail` has the failed check",
        "add the origin of the page to `login.origins` if it may; programs send `Authorization` instead of the cookie",
    ),
    Cause.FORM_TOKEN: (
        "the form of the logout page was sent without its token, or for another session",
        "open `{prefix}/sign_out` again",
    ),
    Cause.STATE_INVALID: (
        "the `state` of the login is missing, altered, too long, or sealed with another of `login.secrets`",
        "sign in again; if it happens to all, give all replicas the same `login.secrets`",
    ),
    Cause.STATE_EXPIRED: (
        "the login took longer than 15 minutes",
        "sign in again",
    ),
    Cause.STATE_USED: (
        "this answer of the provider was used before: a reload, or the button back",
        "sign in again if no session is there",
    ),
    Cause.BROWSER_MISMATCH: (
        "another browser began the login, or its cookie was deleted",
        "sign in again; check that the proxy passes `Cookie` and `Set-Cookie` on",
    ),
    Cause.PROVIDER_MISMATCH: (
        "the answer came to the redirect URI of another provider, or the provider has no `login` any more",
        "register for each provider the redirect URI that `sidecar check` prints",
    ),
    Cause.RESPONSE_ISSUER: (
        "the `iss` of the answer is missing or is that of another provider",
        "compare `issuer` with the discovery document of the provider; otherwise treat it as an attack",
    ),
    Cause.PROVIDER_ERROR: (
        "the provider refused the login; `detail` has the `error`",
        "see the log of the provider",
    ),
    Cause.PROVIDER_ANSWER: (
        "the answer of the provider cannot be used; `detail` says why",
        "see the log of the provider, and its documentation of the token endpoint",
    ),
    Cause.CODE_REFUSED: (
        "the provider did not accept the code",
        "compare the redirect URI with the registered one; `sidecar check` tries the registration",
    ),
    Cause.CLIENT_REFUSED: (
        "the provider did not accept the client; `detail` has the `error`",
        "correct `clientId`, `clientSecret` or `clientAuthentication` of the provider; `sidecar check` tries them",
    ),
    Cause.NONCE: (
        "the ID token belongs to another login",
        "sign in again; if it happens to all, the provider does not return `nonce`",
    ),
    Cause.ACCESS_TOKEN_HASH: (
        "`at_hash` of the ID token does not belong to the access token",
        "report it to the provider",
    ),
    Cause.AUTHORIZED_PARTY: (
        "the ID token was issued to another client (`azp`), or has several audiences and no `azp`",
        "use a client of its own for the sidecar",
    ),
    Cause.USERINFO_SUBJECT: (
        "the UserInfo response is about another person than the ID token",
        "report it to the provider",
    ),
    Cause.AUTHENTICATION_AGE: (
        "`auth_time` is missing, or older than `maxAge` of the rule or of the provider's `login`; `detail` has both",
        "sign in again; have the provider send `auth_time`, or remove `maxAge`",
    ),
    Cause.AUTHENTICATION_CLASS: (
        "the `acr` of the token is none of `acr` of the rule, or of `acrValues` of the provider",
        "sign in again; configure these authentication classes at the provider, or correct the list",
    ),
    Cause.CLIENT_WRONG: (
        "the client of the token endpoint is unknown, or its secret or `client_id` is wrong; `detail` says which",
        "compare `tokenEndpoint.clients` with what the client sends; a secret from a file may end in a line feed",
    ),
    Cause.CLIENT_GRANT: (
        "the client may not use this grant",
        "add `as` (client_credentials) or `exchange` (token exchange) to the client in `tokenEndpoint.clients`",
    ),
    Cause.GRANT_UNKNOWN: (
        "the token endpoint does not have this grant type",
        "use client_credentials, jwt-bearer or token-exchange; people log in at their identity provider",
    ),
    Cause.ASSERTION_AUDIENCE: (
        "`aud` of the assertion or platform token is not exactly the expected one; `detail` has both",
        "request the token with that audience alone: the issuer of the token endpoint, or `audience` of the rule",
    ),
    Cause.ASSERTION_REPLAYED: (
        "a token was issued for this assertion or platform token before",
        "get a new one for each request; if a job asks repeatedly with one token, set `reuse: true` in its rule",
    ),
    Cause.WORKLOAD_ONLY: (
        "tokens of this provider are for the token endpoint only (`bearer: false`)",
        "exchange the token at `{prefix}/token` and send what that returns",
    ),
    Cause.WORKLOAD_UNKNOWN: (
        "no rule in `tokenEndpoint.workloads` is about the issuer of the token; `detail` has `iss`",
        "add a provider and a rule for it; `sidecar token explain --workload` shows what a token lacks",
    ),
    Cause.WORKLOAD_SUBJECT: (
        "`sub` of the platform's token matches no rule; `detail` names the nearest rule",
        "run `sidecar token explain --workload`, which prints both values; newer GitHub repositories have ids in `sub`",
    ),
    Cause.WORKLOAD_CLAIM: (
        "a claim of the platform's token matches no rule; `detail` names the nearest rule and the claim",
        "run `sidecar token explain --workload`, which prints both values",
    ),
    Cause.SUBJECT_TOKEN: (
        "the token is accepted here, and may not be exchanged by this client; `detail` says why",
        "see [what can be exchanged](../guides/token-endpoint.md#what-can-be-exchanged)",
    ),
    Cause.BOT_UNREGISTERED: (
        "the bot in `as` is not registered, or was released",
        "register it with `sidecar bots register`",
    ),
    Cause.TARGET: (
        "the requested `resource` or `audience` is not one that the client may have; `detail` has those",
        "request one of them, or add it to `audiences` of the client and of `tokenEndpoint`",
    ),
    Cause.SCOPE: (
        "none of the requested scopes is allowed; `detail` has those that are",
        "request one of them, or add it to `scopes` of the client; a subject token without the scope cannot give it",
    ),
    Cause.PRINCIPAL_MISSING: (
        "no claim names the caller",
        "set `jwtPrincipalClaims` (or `jwtPrincipalClaimsMapping`) to a claim that the tokens have",
    ),
    Cause.PRINCIPAL_MALFORMED: (
        "the claim that names the caller cannot be a name; `detail` says why",
        "use another claim, or correct the value at the issuer",
    ),
    Cause.EMAIL_UNVERIFIED: (
        "the address names the caller, and the provider does not say that it is verified",
        "have the provider send `email_verified: true`, use another claim, or set `emailVerified: absentIsVerified`",
    ),
    Cause.RESERVED_NAME: (
        "the name is reserved for the guest, the system client, a bot or `anonymous`",
        "rename the user; for a bot, `sidecar bots release` frees the name",
    ),
    Cause.SERVER_BOT: (
        "the name is that of one of the upstream's own bots",
        "rename the user, or correct `upstream.serverBots`",
    ),
    Cause.DOMAIN: (
        "`enforcePrincipalDomain` is set, and the caller's domain is not allowed",
        "add it to `allowedDomains`, or set `principalDomain`",
    ),
    Cause.NAMESPACE: (
        "the service account is in a namespace that is not listed",
        "add it to `namespaces` of the `kubernetes` authenticator",
    ),
    Cause.KEYS_UNAVAILABLE: (
        "the keys of the issuer could not be fetched",
        "see [AuthSidecarKeysUnusable](../runbook.md#authsidecarkeysunusable)",
    ),
    Cause.INTROSPECTION_UNAVAILABLE: (
        "the introspection endpoint, or the cluster's TokenReview, does not answer usably; `detail` says how",
        "see [AuthSidecarAuthenticationBroken](../runbook.md#authsidecarauthenticationbroken)",
    ),
    Cause.DIRECTORY_UNAVAILABLE: (
        "the directory does not answer; `detail` says how",
        "see [AuthSidecarAuthenticationBroken](../runbook.md#authsidecarauthenticationbroken)",
    ),
    Cause.STORE_UNAVAILABLE: (
        "the store does not answer or cannot be written; `detail` says why",
        "see [AuthSidecarStoreDown](../runbook.md#authsidecarstoredown)",
    ),
    Cause.PROVIDER_UNAVAILABLE: (
        "the discovery document or an endpoint of the provider cannot be used for the login; `detail` says why",
        "check the URL in `detail`, DNS, `outbound.proxy` and NetworkPolicies",
    ),
    Cause.SECRETS_MANAGER: (
        "a token of a bot could not be written to the secrets manager, so it was not minted; `detail` says why",
        "see the [secrets manager](../runbook.md#authsidecarsecretsunreadable)",
    ),
    Cause.MIRROR_STALE: (
        "the local copy of the revocation list is older than `revocation.maxStaleness`",
        "see [AuthSidecarMirrorStale](../runbook.md#authsidecarmirrorstale)",
    ),
    Cause.BOT_CHECK: (
        "the server could not be asked whether this is the bot's current token",
        "check `botTokenCheck.url` and the server; `detail` has the kind of error",
    ),
    Cause.MEMBER_BROKEN: (
        "an authenticator failed or took too long; `authenticator` names it",
        "see [AuthSidecarAuthenticationBroken](../runbook.md#authsidecarauthenticationbroken)",
    ),
    Cause.THROTTLED: (
        "too many wrong passwords, client secrets or unknown credentials in a short time, or tokens above `perMinute`",
        "find the client that sends them; `Retry-After` says when the next attempt is possible",
    ),
    Cause.DEADLINE: (
        "the verdict took longer than `server.checkDeadline`, or the client sent its request too slowly (408)",
        "look for a dependency that is slow; `authenticator` timeouts must be shorter than the deadline",
    ),
    Cause.OVERLOAD: (
        "a limit on concurrent requests is reached",
        "see [AuthSidecarUnavailable](../runbook.md#authsidecarunavailable)",
    ),
    Cause.INTERNAL: (
        "an internal error; the line `unhandled_error` with the same `requestId` has its place",
        "report it as a bug with that line",
    ),
}
"""For each cause but ``none``: what happened, and what to do. Markdown, for a table."""
