"""Who answers what on the public listener, as a table."""

from collections.abc import Mapping

from sidecar.dataplane.check import CheckEndpoint
from sidecar.dataplane.proxy.forward import Forwarder
from sidecar.errors import Reason, Refused
from sidecar.web.dispatcher import Handler


class PublicRoutes:
    """Exact paths, one subtree for Envoy's checks, the reserved prefix, and everything else.

    ``below``: paths of which each has one more segment behind it, such as an id.
    Paths compare byte for byte: what only resembles one of ours is the upstream's business, behind authentication.
    """

    def __init__(
        self,
        *,
        prefix: str,
        exact: Mapping[str, tuple[str, Handler]],
        below: Mapping[str, tuple[str, Handler]],
        envoy: CheckEndpoint,
        upstream: Forwarder | None,
    ) -> None:
        self._exact = dict(exact)
        self._below = dict(below)
        self._checks = {path: handler for path, (_, handler) in exact.items() if isinstance(handler, CheckEndpoint)}
        self._prefix = prefix
        self._envoy_path = f"{prefix}/ext_authz"
        self._envoy = envoy
        self._upstream = upstream

    def find_check(self, target: str) -> tuple[CheckEndpoint, str] | None:
        """The check endpoint that ``target`` names, and what stands behind its path; None for all other targets."""
        if not target.startswith(self._prefix):
            return None
        path, mark, query = target.partition("?")
        check = self._checks.get(path)
        if check is not None:
            return check, mark + query
        return (self._envoy, target[len(self._envoy_path) :]) if self._is_envoy(target) else None

    def find_streaming_handler(self, target: str) -> Forwarder | None:
        """What forwards ``target``; None for what is not the upstream's."""
        if target.startswith(self._prefix) or target.partition("?")[0] in self._exact:
            return None
        return self._upstream

    def find(self, target: str) -> tuple[str, Handler, str]:
        """The route's name, its handler and the rest of ``target``: of a check its query. Raises Refused(NOT_FOUND)."""
        path, mark, query = target.partition("?")
        found = self._exact.get(path)
        if found is not None:
            return found[0], found[1], mark + query if path in self._checks else ""
        if self._is_envoy(target):
            return "check", self._envoy, target[len(self._envoy_path) :]
        if path == self._prefix or path.startswith(f"{self._prefix}/"):
            parent, _, segment = path.rpartition("/")
            found = self._below.get(parent)
            if found is None:
                raise Refused(Reason.NOT_FOUND)
            return found[0], found[1], segment
        if self._upstream is None:
            raise Refused(Reason.NOT_FOUND)
        return "forward", self._upstream, ""

    def _is_envoy(self, target: str) -> bool:
        return target.startswith(self._envoy_path) and target[len(self._envoy_path) :][:1] in ("", "/", "?")
