"""Removes environment variables that libraries and the interpreter read and that are no settings of the sidecar.

The environment of a pod is often written for another program. It must not prevent the start, weaken TLS or replace a
parser, so variables of libraries are removed before the libraries are imported.
"""

import os
import sys
import warnings
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager

# Read by a library at import or later, with the effect.
_REMOVED = {
    "PROMETHEUS_MULTIPROC_DIR": "store metrics in files",
    "prometheus_multiproc_dir": "store metrics in files",
    "PROMETHEUS_DISABLE_CREATED_SERIES": "change which series are exported",
    "PROMETHEUS_LEGACY_NAME_VALIDATION": "change which names of metrics are valid",
    "AIOHTTP_NO_EXTENSIONS": "replace the HTTP parser with a slower one",
    "AIOHTTP_NOSENDFILE": "change how files are sent",
    "MULTIDICT_NO_EXTENSIONS": "replace compiled code with slower code",
    "YARL_NO_EXTENSIONS": "replace compiled code with slower code",
    "FROZENLIST_NO_EXTENSIONS": "replace compiled code with slower code",
    "PROPCACHE_NO_EXTENSIONS": "replace compiled code with slower code",
    "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "replace compiled code with slower code",
    "PYTHONASYNCIODEBUG": "log the content of connections and slow down the process",
    "SSLKEYLOGFILE": "write the secrets of TLS connections to a file",
    "AUTHLIB_INSECURE_TRANSPORT": "allow OAuth over plain HTTP",
    # other libraries also import OpenTelemetry if it is installed
    "OTEL_PROPAGATORS": "select which modules are imported",
    "OTEL_PYTHON_CONTEXT": "select which modules are imported",
    "OTEL_PYTHON_TRACER_PROVIDER": "select which modules are imported",
    "OTEL_PYTHON_METER_PROVIDER": "select which modules are imported",
}
# The interpreter has applied these before any code of the sidecar runs, with the effect.
_IN_FORCE = {
    "PYTHONDEVMODE": "Python's development mode is on, which is slower and logs warnings",
    "PYTHONINSPECT": "Python reads statements from standard input after the sidecar has exited",
    "PYTHONOPTIMIZE": "assertions of libraries are disabled",
}
# The variables that the documentation allows for tracing. The block ``tracing`` covers the others.
_KEPT_FOR_TRACING = frozenset(
    {
        "OTEL_RESOURCE_ATTRIBUTES",
        *(
            f"OTEL_EXPORTER_OTLP_{signal}{name}"
            for signal in ("", "TRACES_")
            for name in ("HEADERS", "CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY")
        ),
    }
)
_DEFAULT_MAX_DIGITS = 4300
"""Python's own limit of ``int(text)``, which takes quadratic time."""

findings: list[str] = []
"""One sentence per variable that :func:`clean` found, for logs and ``sidecar check``; without its value."""


def clean(environ: MutableMapping[str, str] = os.environ) -> None:
    """Remove variables of libraries and reset what can be reset. Call before any library is imported."""
    findings.clear()
    for name, effect in _REMOVED.items():
        if environ.pop(name, None) is not None:
            findings.append(f"the environment variable {name} is ignored; it would {effect}")
    if environ.pop("PYTHONWARNINGS", None) is not None:
        # "error" would turn warnings of libraries into exceptions
        warnings.resetwarnings()
        warnings.simplefilter("ignore")
        findings.append("the environment variable PYTHONWARNINGS is ignored")
    if environ.pop("PYTHONINTMAXSTRDIGITS", None) is not None:
        sys.set_int_max_str_digits(_DEFAULT_MAX_DIGITS)
        findings.append(
            "the environment variable PYTHONINTMAXSTRDIGITS is ignored; it would allow numbers that block the process"
        )
    for name, effect in _IN_FORCE.items():
        if environ.get(name):
            findings.append(f"the environment variable {name} is set: {effect}; remove it")
    if environ.get("PYTHONHASHSEED", "random") not in ("", "random"):
        text = "callers can choose header names that are slow to look up (hash collisions)"
        findings.append(f"the environment variable PYTHONHASHSEED is set: {text}; remove it")


@contextmanager
def without_tracing_variables(environ: MutableMapping[str, str] = os.environ) -> Iterator[None]:
    """Hide the undocumented variables of OpenTelemetry while it is imported and set up.

    They are restored afterwards: a configuration may use them in placeholders.
    """
    hidden = {
        name: value for name, value in environ.items() if name.startswith("OTEL_") and name not in _KEPT_FOR_TRACING
    }
    for name in hidden:
        del environ[name]
    try:
        yield
    finally:
        environ.update(hidden)
