"""Parses durations, sizes, network addresses, paths and origins."""

import ipaddress
import re
from typing import Annotated

from pydantic import BeforeValidator, Field

_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h|d|w))+")
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_ISO_DURATION = re.compile(
    r"P(?:(?P<w>\d+)W)?(?:(?P<d>\d+)D)?(?:T(?:(?P<h>\d+)H)?(?:(?P<m>\d+)M)?(?:(?P<s>\d+(?:\.\d+)?)S)?)?"
)
_SIZE = re.compile(r"(\d+)\s*(B|KB|MB|GB|KiB|MiB|GiB)?", re.IGNORECASE)
_WEB_ORIGIN = re.compile(r"(https?)://([a-z0-9._-]+|\[[0-9a-f:.]+\])((?::[0-9]{1,5})?)")
_BASE_PATH = re.compile(r"(?:/(?!\.\.?(?:/|\Z))[A-Za-z0-9._~-]+)+")
_OWN_PORTS = {"http": ":80", "https": ":443"}
_BYTES = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


def parse_duration(value: object) -> float:
    """Seconds from ``90``, ``"30s"``, ``"1h30m"``, ``"7d"`` or ISO 8601 ``"P1DT12H"``.

    Raises ValueError for anything else, months and years included (their length is not fixed).
    """
    if isinstance(value, bool):
        raise ValueError("must be a duration such as 30s, 10m, 24h, 7d or PT30M")
    if isinstance(value, int | float):
        return float(value)
    text = str(value).strip()
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    if _DURATION.fullmatch(text):
        return sum(float(number) * _SECONDS[unit] for number, unit in _DURATION_PART.findall(text))
    iso = _ISO_DURATION.fullmatch(text.upper())
    if iso and any(iso.groups()):
        return sum(float(number) * _SECONDS[unit] for unit, number in iso.groupdict().items() if number)
    raise ValueError("must be a duration such as 30s, 10m, 24h, 7d or PT30M")


def parse_size(value: object) -> int:
    """Bytes from ``4096``, ``"512KiB"`` or ``"1MB"``. Raises ValueError for anything else."""
    match = _SIZE.fullmatch(str(value).strip())
    if isinstance(value, bool) or match is None:
        raise ValueError("must be a size such as 4096, 512KiB or 1MB")
    return int(match[1]) * _BYTES[(match[2] or "").lower()]


def parse_listen_address(value: object) -> str:
    """``host:port``, ``[v6]:port``, ``*:port`` or ``unix:/path``, checked but kept as text. Raises ValueError."""
    text = str(value)
    if text.startswith("unix:/"):
        if "," in text:
            raise ValueError(
                "must not contain a comma; mode and group of the socket are server.socketMode and server.socketGroup"
            )
        return text
    host, _, port = text.rpartition(":")
    if not re.fullmatch(r"[^\s/]+", host) or not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535:
        raise ValueError("must be host:port, [v6]:port, *:port or unix:/path")
    if "*" in host and host != "*":
        raise ValueError("must be host:port, [v6]:port, *:port or unix:/path")
    if ":" in host.strip("[]") and not (host.startswith("[") and host.endswith("]")):
        raise ValueError("an IPv6 host needs brackets: [::1]:4180")
    if host.startswith("[") and not _is_ip_v6(host[1:-1]):
        raise ValueError("must be host:port, [v6]:port, *:port or unix:/path")
    return text


def _is_ip_v6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def parse_network(value: object) -> str:
    """A CIDR or a single address, or ``unix`` for callers on a unix socket; kept as text. Raises ValueError."""
    text = str(value)
    if text != "unix":
        try:
            network = ipaddress.ip_network(text, strict=False)
        except ValueError:
            # the library's own text repeats the value
            raise ValueError(
                "must be an address, a network such as 10.0.0.0/8, or unix; names of hosts are not resolved"
            ) from None
        if "/" in text and ipaddress.ip_address(text.partition("/")[0]) != network.network_address:
            raise ValueError(
                f"is {text}, an address inside the network {network}; write {network} for the network, or "
                f"{text.partition('/')[0]} for that address alone"
            )
    return text


def parse_base_path(value: object) -> str:
    """``/a`` or ``/a/b`` from a path that may end with a slash; empty for ``/`` and empty text. Raises ValueError."""
    text = str(value or "").rstrip("/")
    if text and not _BASE_PATH.fullmatch(text):
        raise ValueError("must be a path such as /metadata: segments of letters, digits and . _ ~ -, no dot segments")
    return text


def parse_web_origin(value: object) -> str:
    """``http`` or ``https`` with host and optional port, as browsers send it in ``Origin``. Raises ValueError."""
    match = _WEB_ORIGIN.fullmatch(str(value).lower())
    if match is None:
        raise ValueError("must be an origin such as https://metadata.example.com, without a path")
    scheme, host, port = match.groups()
    # browsers omit the default port of the scheme
    return f"{scheme}://{host}" if port in ("", _OWN_PORTS[scheme]) else f"{scheme}://{host}{port}"


ANY_ORIGIN = "*"


def parse_any_origin(value: object) -> str:
    """An origin, or ``*`` for all of them. Raises ValueError."""
    return ANY_ORIGIN if value == ANY_ORIGIN else parse_web_origin(value)


Duration = Annotated[
    float, BeforeValidator(parse_duration, json_schema_input_type=str | float), Field(ge=0, allow_inf_nan=False)
]
Size = Annotated[int, BeforeValidator(parse_size, json_schema_input_type=str | int), Field(ge=0)]
ListenAddress = Annotated[str, BeforeValidator(parse_listen_address, json_schema_input_type=str)]
Network = Annotated[str, BeforeValidator(parse_network, json_schema_input_type=str)]
BasePath = Annotated[str, BeforeValidator(parse_base_path, json_schema_input_type=str)]
WebOrigin = Annotated[str, BeforeValidator(parse_web_origin, json_schema_input_type=str)]
AnyOrigin = Annotated[str, BeforeValidator(parse_any_origin, json_schema_input_type=str)]
