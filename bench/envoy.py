"""Envoy's side: four listeners in one process, {check, forward} x {without, with} the token cache."""

from typing import Any

from bench.tokens import AUDIENCE

_TYPES = "type.googleapis.com/envoy.extensions.filters"
_MANAGER = f"{_TYPES}.network.http_connection_manager.v3.HttpConnectionManager"


def configuration(
    *, issuer: str, upstream: int, check: int, check_cached: int, forward: int, forward_cached: int, cache_size: int
) -> dict[str, Any]:
    """Envoy's bootstrap configuration. The numbers are ports; ``upstream`` serves the key set and the responses."""
    direct = {"direct_response": {"status": 200}}
    routed = {"route": {"cluster": "upstream"}}
    return {
        "static_resources": {
            "listeners": [
                _listener("check", check, issuer, direct, 0),
                _listener("check_cached", check_cached, issuer, direct, cache_size),
                _listener("forward", forward, issuer, routed, 0),
                _listener("forward_cached", forward_cached, issuer, routed, cache_size),
            ],
            "clusters": [
                {
                    "name": "upstream",
                    "type": "STATIC",
                    "connect_timeout": "1s",
                    "load_assignment": {
                        "cluster_name": "upstream",
                        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(upstream)}}]}],
                    },
                }
            ],
        }
    }


def _listener(name: str, port: int, issuer: str, action: dict[str, Any], cache_size: int) -> dict[str, Any]:
    provider: dict[str, Any] = {
        "issuer": issuer,
        "audiences": [AUDIENCE],
        "forward": True,
        "remote_jwks": {
            "http_uri": {"uri": f"{issuer}/jwks", "cluster": "upstream", "timeout": "2s"},
            "async_fetch": {},
        },
    }
    if cache_size:
        provider["jwt_cache_config"] = {"jwt_cache_size": cache_size}
    jwt_authn = {
        "@type": f"{_TYPES}.http.jwt_authn.v3.JwtAuthentication",
        "providers": {"bench": provider},
        "rules": [{"match": {"prefix": "/"}, "requires": {"provider_name": "bench"}}],
    }
    router = {"@type": f"{_TYPES}.http.router.v3.Router"}
    manager = {
        "@type": _MANAGER,
        "stat_prefix": name,
        "route_config": {
            "virtual_hosts": [{"name": name, "domains": ["*"], "routes": [{"match": {"prefix": "/"}} | action]}]
        },
        "http_filters": [
            {"name": "envoy.filters.http.jwt_authn", "typed_config": jwt_authn},
            {"name": "envoy.filters.http.router", "typed_config": router},
        ],
    }
    return {
        "name": name,
        "address": _address(port),
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        ],
    }


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}
