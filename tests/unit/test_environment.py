"""Variables of the environment that are no settings."""

from collections.abc import Iterator

import pytest

from sidecar import environment
from sidecar.environment import clean, without_tracing_variables


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    kept = list(environment.findings)
    yield
    environment.findings[:] = kept


def test_only_variables_of_libraries_are_removed() -> None:
    variables = {
        "SSLKEYLOGFILE": "/x",
        "prometheus_multiproc_dir": "",
        "SSL_CERT_FILE": "/ca",
        "HTTPS_PROXY": "p",
        "A": "b",
    }
    clean(variables)
    assert variables == {"SSL_CERT_FILE": "/ca", "HTTPS_PROXY": "p", "A": "b"}
    assert [finding.split()[3] for finding in environment.findings] == ["prometheus_multiproc_dir", "SSLKEYLOGFILE"]


@pytest.mark.parametrize(("seed", "told"), [("random", 0), ("", 0), ("0", 1), ("123", 1)])
def test_a_fixed_hash_seed_is_reported(seed: str, told: int) -> None:
    clean({"PYTHONHASHSEED": seed})
    assert len(environment.findings) == told


def test_tracing_sees_the_documented_variables_only_and_the_rest_comes_back() -> None:
    given = {"OTEL_EXPORTER_OTLP_HEADERS": "a=b", "OTEL_BSP_MAX_QUEUE_SIZE": "x", "OTEL_SDK_DISABLED": "true", "A": "b"}
    variables = dict(given)
    with without_tracing_variables(variables):
        assert variables == {"OTEL_EXPORTER_OTLP_HEADERS": "a=b", "A": "b"}
    assert variables == given
