"""A pod's environment may be written for another program: the sidecar starts and judges as it would without it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.http_client import answers, request
from tests.support.identity_provider import AUDIENCE, IdentityProvider
from tests.support.ports import free_port
from tests.support.process import running

LIBRARIES = {
    "PROMETHEUS_MULTIPROC_DIR": "/nonexistent",
    "prometheus_multiproc_dir": "/nonexistent",
    "PROMETHEUS_DISABLE_CREATED_SERIES": "yes",
    "PROMETHEUS_LEGACY_NAME_VALIDATION": "true",
    "AIOHTTP_NO_EXTENSIONS": "1",
    "AIOHTTP_NOSENDFILE": "1",
    "MULTIDICT_NO_EXTENSIONS": "1",
    "YARL_NO_EXTENSIONS": "1",
    "FROZENLIST_NO_EXTENSIONS": "1",
    "PROPCACHE_NO_EXTENSIONS": "1",
    "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "none",
    "PYTHONASYNCIODEBUG": "1",
    "PYTHONINTMAXSTRDIGITS": "0",
    "PYTHONWARNINGS": "error",
    "SSLKEYLOGFILE": "/nonexistent/keys",
    "AUTHLIB_INSECURE_TRANSPORT": "1",
    "OTEL_PROPAGATORS": "nonsense",
    "OTEL_PYTHON_CONTEXT": "nonsense",
    "OTEL_PYTHON_TRACER_PROVIDER": "nonsense",
    "OTEL_PYTHON_METER_PROVIDER": "nonsense",
}
TRACING = {
    "OTEL_EXPORTER_OTLP_COMPRESSION": "nonsense",
    "OTEL_EXPORTER_OTLP_TIMEOUT": "soon",
    "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
    "OTEL_BSP_MAX_QUEUE_SIZE": "1",
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "many",
    "OTEL_TRACES_SAMPLER": "nonsense",
    "OTEL_SDK_DISABLED": "true",
    "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": "nonsense",
    "OTEL_RESOURCE_ATTRIBUTES": "k8s.pod.name=a,x",
}


def configuration(folder: Path, issuer: str, **server: Any) -> tuple[Path, str, str]:
    """A configuration's file, and the addresses of both listeners."""
    address, admin_address = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    document = {
        "server": {"listen": address, "adminListen": admin_address, "drainDelay": "0s", **server},
        "store": {"url": f"sqlite:///{folder}/s.db"},
        "tracing": {"endpoint": f"http://127.0.0.1:{free_port()}"},
        "authenticationConfiguration": {"providers": [{"name": "corp", "issuer": issuer, "audiences": [AUDIENCE]}]},
    }
    file = folder / "sidecar.yaml"
    file.write_text(yaml.safe_dump(document), encoding="utf-8")
    return file, address, admin_address


@pytest.mark.parametrize("workers", [1, 2])
def test_variables_of_libraries_neither_end_the_start_nor_change_a_verdict(tmp_path: Path, workers: int) -> None:
    with IdentityProvider() as provider:
        file, address, admin_address = configuration(tmp_path, provider.issuer, workers=workers)
        command = [sys.executable, "-m", "sidecar", "serve", "--config", file]
        with running(
            command,
            log=tmp_path / "log",
            ready=lambda: answers(f"http://{admin_address}/readyz", 200),
            environment={**os.environ, **LIBRARIES, **TRACING},
        ) as process:
            url = f"http://{address}/oauth2/userinfo"
            assert request(url).status == 401
            assert request(url, headers=[("Authorization", f"Bearer {provider.mint()}")]).status == 200
            metrics = request(f"http://{admin_address}/metrics").body
            assert b"sidecar_token_cache_entries 1" in metrics
        output = process.output
        assert process.popen.returncode == 0
    assert "Traceback" not in output
    lines = [json.loads(line) for line in output.splitlines()]
    told = [line["message"] for line in lines if line["logger"] == "sidecar.environment"]
    assert all(any(f" {name} " in text for text in told) for name in LIBRARIES), told
    assert "nonexistent" not in "".join(told), "no value of a variable"


def test_the_compiled_parser_stays(tmp_path: Path) -> None:
    """The other one reads some requests in another way."""
    program = (
        "from contextlib import suppress\n"
        "from sidecar.cli import main\n"
        "with suppress(SystemExit): main(['--version'])\n"
        "import multidict\n"
        "from aiohttp import http_parser as one\n"
        "print(one.HttpRequestParser is not one.HttpRequestParserPy, multidict._compat.USE_EXTENSIONS)\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command,
        env={**os.environ, **LIBRARIES},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.stdout.split()[-2:] == ["True", "True"], done.stderr


def test_check_names_what_it_ignores_and_what_is_in_force(tmp_path: Path) -> None:
    file, _, _ = configuration(tmp_path, "http://127.0.0.1:9")
    variables = {"PROMETHEUS_MULTIPROC_DIR": "/x", "PYTHONHASHSEED": "7", "PYTHONOPTIMIZE": "1", "PYTHONDEVMODE": "1"}
    variables["PYTHONINSPECT"] = "1"
    command = [sys.executable, "-m", "sidecar", "check", "--offline", "--config", str(file)]
    done = subprocess.run(
        command, env={**os.environ, **variables}, capture_output=True, text=True, timeout=60, check=False
    )
    for name in variables:
        assert f"warning: the environment variable {name} is " in done.stderr


def test_a_configuration_may_still_name_tracings_variables(tmp_path: Path) -> None:
    file, _, _ = configuration(tmp_path, "http://127.0.0.1:9")
    text = file.read_text(encoding="utf-8").replace("tracing:\n", "tracing:\n  serviceName: ${OTEL_SERVICE_NAME}\n")
    file.write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "sidecar", "config", "show", "--config", str(file)]
    variables = {"OTEL_SERVICE_NAME": "gatekeeper"}
    done = subprocess.run(
        command, env={**os.environ, **variables}, capture_output=True, text=True, timeout=60, check=False
    )
    assert "serviceName: gatekeeper" in done.stdout, done.stderr
