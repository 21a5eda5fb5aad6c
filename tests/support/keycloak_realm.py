"""A realm of Keycloak for browser logins, made over its administration API."""

import json
from dataclasses import dataclass

from tests.support.http_client import Reply, form, request

CLIENT, SECRET = "metadata-web", "metadata-web-secret-for-tests-only"
PERSON, PASSWORD = "alice", "alice-password"


@dataclass(frozen=True, slots=True)
class Realm:
    """A realm of the server at ``server`` with one person and one confidential client."""

    server: str
    name: str

    @property
    def issuer(self) -> str:
        """Its issuer."""
        return f"{self.server}/realms/{self.name}"

    def create(self, public_url: str, provider: str) -> None:
        """Make it, for the sidecar at ``public_url`` in which it has the name ``provider``."""
        client = {
            "clientId": CLIENT,
            "secret": SECRET,
            "redirectUris": [f"{public_url}/oauth2/callback/{provider}"],
            "attributes": {
                "post.logout.redirect.uris": f"{public_url}/oauth2/signed_out",
                "backchannel.logout.url": f"{public_url}/oauth2/backchannel_logout",
                "backchannel.logout.session.required": "true",
            },
        }
        person = {
            "username": PERSON,
            "enabled": True,
            "email": f"{PERSON}@example.com",
            "emailVerified": True,
            "firstName": "Alice",
            "lastName": "Example",
            "credentials": [{"type": "password", "value": PASSWORD, "temporary": False}],
        }
        realm = {"realm": self.name, "enabled": True, "clients": [client], "users": [person]}
        self.administer("POST", "/admin/realms", realm)

    def end_sessions(self) -> None:
        """End the person's sessions, as an administrator does."""
        (person,) = self.administer("GET", f"/admin/realms/{self.name}/users?username={PERSON}").json()
        self.administer("POST", f"/admin/realms/{self.name}/users/{person['id']}/logout")

    def administer(self, method: str, path: str, document: object = None) -> Reply:
        """One call of the administration API."""
        fields = {"client_id": "admin-cli", "grant_type": "password", "username": "admin", "password": "admin"}
        token = form(f"{self.server}/realms/master/protocol/openid-connect/token", fields)["access_token"]
        headers = [("Authorization", f"Bearer {token}"), ("Content-Type", "application/json")]
        body = None if document is None else json.dumps(document).encode()
        reply = request(self.server + path, method, headers=headers, body=body)
        assert reply.status < 300, reply
        return reply
