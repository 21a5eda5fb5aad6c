"""A gigabyte each way: every byte arrives, and memory does not grow with it."""

import hashlib
import http.client
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from bench.service import PATTERN
from tests.faults.conftest import ask, configuration
from tests.support.identity_provider import IdentityProvider
from tests.support.service_process import ServiceProcess
from tests.support.sidecar_process import Sidecar, running_sidecar

pytestmark = pytest.mark.heavy
SIZE = 2**30
MOST_MORE = 30 * 2**20
PATIENCE = 120.0


def pieces() -> Iterator[bytes]:
    """What the service sends, as well."""
    for start in range(0, SIZE, len(PATTERN)):
        yield PATTERN[: SIZE - start]


def digest() -> str:
    expected = hashlib.sha256()
    for piece in pieces():
        expected.update(piece)
    return expected.hexdigest()


def resident(sidecar: Sidecar, field: str) -> int:
    """``VmRSS`` now, or ``VmHWM`` at most since :func:`forget_peak`, in bytes."""
    lines = Path(f"/proc/{sidecar.process.popen.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def forget_peak(sidecar: Sidecar) -> None:
    Path(f"/proc/{sidecar.process.popen.pid}/clear_refs").write_text("5")


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_gigabyte_passes_either_way_in_bounded_memory(
    tmp_path: Path, idp: IdentityProvider, service: ServiceProcess, framing: str
) -> None:
    expected = digest()
    with service.up(), running_sidecar(tmp_path, configuration(idp, service.url)) as sidecar:
        headers = {"Authorization": f"Bearer {idp.mint()}"}
        assert ask(sidecar, idp.mint()).status == 200
        idle = resident(sidecar, "VmRSS")
        forget_peak(sidecar)
        with closing(http.client.HTTPConnection(sidecar.address, timeout=PATIENCE)) as connection:
            connection.request("GET", f"/download/{SIZE}{'?chunked' * (framing == 'chunked')}", headers=headers)
            received = hashlib.sha256()
            with connection.getresponse() as answer:
                assert (answer.getheader("Content-Length") is None) is (framing == "chunked")
                while piece := answer.read(2**20):
                    received.update(piece)
            assert received.hexdigest() == expected
            length = {"Content-Length": str(SIZE)} if framing == "length" else {}
            connection.request(
                "PUT", "/upload", body=pieces(), headers={**headers, **length}, encode_chunked=framing == "chunked"
            )
            with connection.getresponse() as answer:
                document = json.load(answer)
            assert (document["size"], document["sha256"]) == (SIZE, expected)
        more = resident(sidecar, "VmHWM") - idle
        assert more < MOST_MORE, f"{more / 2**20:.0f} MiB more than idle"
