"""Variables of the environment that libraries and the interpreter read, and that are no settings of the sidecar.

A pod's environment is often written for another program. What it says must not end the start, weaken TLS or exchange
a parser, so the variables of libraries are removed before the libraries are imported.
"""

import os
import sys
import warnings
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager

# Each is read by a library at import or later: what it would do.
_REMOVED = {
    "PROMETHEUS_MULTIPROC_DIR": "keep metrics in files of a folder",
    "prometheus_multiproc_dir": "keep metrics in files of a folder",
    "PROMETHEUS_DISABLE_CREATED_SERIES": "change which series are shown",
    "PROMETHEUS_LEGACY_NAME_VALIDATION": "change which names of metrics are valid",
    "AIOHTTP_NO_EXTENSIONS": "exchange the HTTP parser for a slower one",
    "AIOHTTP_NOSENDFILE": "change how files are sent",
    "MULTIDICT_NO_EXTENSIONS": "exchange compiled code for slower code",
    "YARL_NO_EXTENSIONS": "exchange compiled code for slower code",
    "FROZENLIST_NO_EXTENSIONS": "exchange compiled code for slower code",
    "PROPCACHE_NO_EXTENSIONS": "exchange compiled code for slower code",
    "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "exchange compiled code for slower code",
    "PYTHONASYNCIODEBUG": "log what connections hold, and slow everything down",
    "SSLKEYLOGFILE": "write the secrets of TLS connections to a file",
    "AUTHLIB_INSECURE_TRANSPORT": "allow OAuth over plain HTTP",
    # others import OpenTelemetry too, where it is installed
    "OTEL_PROPAGATORS": "choose what is imported",
    "OTEL_PYTHON_CONTEXT": "choose what is imported",
    "OTEL_PYTHON_TRACER_PROVIDER": "choose what is imported",
    "OTEL_PYTHON_METER_PROVIDER": "choose what is imported",
}
# The interpreter has acted on these before any line of ours: what follows from it.
_IN_FORCE = {
    "PYTHONDEVMODE": "Python's development mode is on: everything is slower, and warnings are logged",
    "PYTHONINSPECT": "Python reads statements from standard input when the sidecar has ended",
    "PYTHONOPTIMIZE": "checks of libraries are off (assert)",
}
# What the documentation says may be set for tracing. Of the rest, tracing's settings say the same or more.
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
"""What :func:`clean` has found, one sentence each, for logs and ``sidecar check``. No value of a variable."""


def clean(environ: MutableMapping[str, str] = os.environ) -> None:
    """Undo what variables of libraries and of the interpreter would do. Called before any library is imported."""
    findings.clear()
    for name, effect in _REMOVED.items():
        if environ.pop(name, None) is not None:
            findings.append(f"the environment variable {name} is ignored; it would {effect}")
    if environ.pop("PYTHONWARNINGS", None) is not None:
        # "error" would make exceptions of libraries' warnings
        warnings.resetwarnings()
        warnings.simplefilter("ignore")
        findings.append("the environment variable PYTHONWARNINGS is ignored")
    if environ.pop("PYTHONINTMAXSTRDIGITS", None) is not None:
        sys.set_int_max_str_digits(_DEFAULT_MAX_DIGITS)
        findings.append(
            "the environment variable PYTHONINTMAXSTRDIGITS is ignored; long numbers would stop the process"
        )
    for name, effect in _IN_FORCE.items():
        if environ.get(name):
            findings.append(f"the environment variable {name} is set: {effect}; remove it")
    if environ.get("PYTHONHASHSEED", "random") not in ("", "random"):
        text = "callers can choose header names that take long to look up"
        findings.append(f"the environment variable PYTHONHASHSEED is set: {text}; remove it")


@contextmanager
def without_tracing_variables(environ: MutableMapping[str, str] = os.environ) -> Iterator[None]:
    """Hide OpenTelemetry's variables while its parts are imported and made, but for those that are documented.

    They come back afterwards: a configuration may name them in placeholders.
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
