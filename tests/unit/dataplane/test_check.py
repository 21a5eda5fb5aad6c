"""The log and the count of checks that are refused because their peer is not trusted."""

import logging

import pytest

from sidecar.dataplane.check import UntrustedPeers
from sidecar.metrics import Metrics


def counted(metrics: Metrics) -> float | None:
    return metrics.registry.get_sample_value("sidecar_untrusted_checks_total")


def test_each_peer_is_logged_once_a_minute_and_every_check_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    metrics, now = Metrics(), [1000.0]
    peers = UntrustedPeers(metrics, lambda: now[0])
    for peer in ("10.0.0.1", "10.0.0.2", "10.0.0.1"):
        peers.note(peer)
    now[0] += 59.0
    peers.note("10.0.0.1")
    now[0] += 1.0
    peers.note("10.0.0.1")
    assert [record.__dict__["peer"] for record in caplog.records] == ["10.0.0.1", "10.0.0.2", "10.0.0.1"]
    assert all(record.levelno == logging.WARNING for record in caplog.records)
    assert counted(metrics) == 5


def test_a_flood_of_peers_fills_neither_memory_nor_log(caplog: pytest.LogCaptureFixture) -> None:
    """They go on being counted; when a minute is over, those who come are logged again."""
    metrics, now = Metrics(), [1000.0]
    peers = UntrustedPeers(metrics, lambda: now[0])
    for number in range(3000):
        peers.note(f"peer-{number}")
    assert (len(caplog.records), len(peers._logged), counted(metrics)) == (1000, 1000, 3000)
    now[0] += 60.0
    peers.note("another")
    assert caplog.records[-1].__dict__["peer"] == "another"
    assert len(peers._logged) == 1
