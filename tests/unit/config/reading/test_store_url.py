"""``store.url`` in all its forms; refusals repeat nothing of it."""

import pytest

from sidecar.config.reading.store_url import StoreAddress, StoreKind, parse_store_url

SINGLE, SENTINEL, CLUSTER = StoreKind.SINGLE, StoreKind.SENTINEL, StoreKind.CLUSTER


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("sqlite:////var/lib/s.db", StoreAddress(StoreKind.SQLITE, path="/var/lib/s.db")),
        ("redis://h", StoreAddress(SINGLE, nodes=(("h", 6379),))),
        ("rediss://u:p%40%2F@h:1/7", StoreAddress(SINGLE, nodes=(("h", 1),), tls=True, username="u", password="p@/",
                                                   database=7)),
        ("redis://h?db=2&protocol=3", StoreAddress(SINGLE, nodes=(("h", 6379),), database=2)),
        ("redis://h?username=u&password=p%26q", StoreAddress(SINGLE, "", (("h", 6379),), False, "u", "p&q")),
        ("redis://u:p@h?password=q", StoreAddress(SINGLE, nodes=(("h", 6379),), username="u", password="p")),
        ("rediss://h?ssl_cert_reqs=required", StoreAddress(SINGLE, nodes=(("h", 6379),), tls=True)),
        ("unix:///run/r.sock", StoreAddress(StoreKind.SOCKET, path="/run/r.sock")),
        (
            "unix://u:p@/run/r.sock?db=3",
            StoreAddress(StoreKind.SOCKET, path="/run/r.sock", username="u", password="p", database=3),
        ),
        ("redis://:p@[::1]:1/", StoreAddress(SINGLE, nodes=(("::1", 1),), password="p")),
        ("redis+sentinel://u:p@h1:1,h2/main/2",
         StoreAddress(SENTINEL, nodes=(("h1", 1), ("h2", 26379)), username="u", password="p", service="main",
                      database=2)),
        ("rediss+sentinel://h/main", StoreAddress(SENTINEL, nodes=(("h", 26379),), tls=True, service="main")),
        ("redis+cluster://h1:7000,[::2]:7001", StoreAddress(CLUSTER, nodes=(("h1", 7000), ("::2", 7001)))),
        ("rediss+cluster://h/0", StoreAddress(CLUSTER, nodes=(("h", 6379),), tls=True)),
    ],
)  # fmt: skip
def test_forms(url: str, address: StoreAddress) -> None:
    assert parse_store_url(url) == address


@pytest.mark.parametrize(
    ("url", "fix"),
    [
        ("hunter2", "must be sqlite:////"),
        ("mysql://hunter2", "must be sqlite:////"),
        ("sqlite:///hunter2", "four slashes"),
        ("sqlite:////hunter2/", "four slashes"),
        ("redis://", "host:port"),
        ("redis://hunter2:0", "host:port"),
        ("redis://hunter2:99999", "host:port"),
        ("redis://h,hunter2", "several servers"),
        ("redis://h/hunter2", "number of a database"),
        ("redis://u:hunter2?x@h", "must not contain spaces"),
        ("redis://h/1?db=2", "two databases"),
        ("redis://h?db=hunter2", "number of a database"),
        ("redis://h?db=1&db=1", "has db more than once"),
        ("redis://h?password=hunter2&nonsense=hunter2", "query parameter nonsense, which is not supported"),
        ("redis://h?hunter2=%00", "must not contain spaces"),
        ("rediss://h?ssl_cert_reqs=none", "certificates are always verified; .*store.tls.caFile"),
        ("redis://h?ssl_cert_reqs=required", "without TLS; begin the URL with rediss"),
        ("rediss://h?ssl_check_hostname=false", "store.tls.serverName"),
        ("rediss://h?ssl_ca_certs=/hunter2", "store.tls.caFile"),
        ("rediss://h?ssl_certfile=/hunter2", "store.tls.certFile"),
        ("rediss://h?ssl_keyfile=/hunter2", "store.tls.keyFile"),
        ("redis://h?socket_timeout=hunter2", "time limits are fixed"),
        ("redis://h?protocol=4", "protocol"),
        ("redis+cluster://h?db=2", "only number 0"),
        ("unix://hunter2/s", "three slashes"),
        ("unix:///hunter2/", "three slashes"),
        ("redis://u:hunter2#@h", "must not contain spaces"),
        ("redis+sentinel://hunter2", "service"),
        ("redis+cluster://hunter2/1", "only number 0"),
        ("redis+cluster://h,,hunter2", "host:port"),
    ],
)
def test_errors_contain_the_fix_and_no_part_of_the_url(url: str, fix: str) -> None:
    with pytest.raises(ValueError, match=fix) as refusal:
        parse_store_url(url)
    assert "hunter2" not in str(refusal.value)


def test_address_shows_no_password() -> None:
    assert "hunter2" not in repr(parse_store_url("redis://u:hunter2@h"))
