"""The route table of the public listener."""

from collections.abc import Mapping

from sidecar.dataplane.check import CheckEndpoint
from sidecar.dataplane.proxy.forward import Forwarder
from sidecar.errors import Reason, Refused
from sidecar.web.in_flight import Handler


class PublicRoutes:
    """Exact paths, one subtree for the checks of Envoy, the reserved prefix, and everything else.

    ``below``: paths with one more segment, such as an id. Paths are compared byte for byte: a path that only resembles
    one of the sidecar is a path of the upstream, behind authentication.
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
        self._checks = frozenset(path for path, (_, handler) in exact.items() if isinstance(handler, CheckEndpoint))
        self._prefix = prefix
        self._envoy_path = f"{prefix}/ext_authz"
        self._envoy = envoy
        self._upstream = upstream

    def find(self, target: str) -> tuple[str, Handler, str]:
        """The name of the route, its handler, and the rest of ``target``: for a check its query.

        Raises Refused(NOT_FOUND).
        """
        path, mark, query = target.partition("?")
        found = self._exact.get(path)
        if found is not None:
            return found[0], found[1], mark + query if path in self._checks else ""
        if target.startswith(self._prefix):
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
