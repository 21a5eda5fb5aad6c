"""Security events: what follows from their settings, and the conditions on them."""

from collections.abc import Iterator

from sidecar.config.reading.finding import Finding
from sidecar.config.reading.tree import Path
from sidecar.config.settings import Settings, TransmitterSettings

_MIN_AUTHORIZATION = 32


def signal_audience(settings: Settings, transmitter: TransmitterSettings) -> str:
    """``aud`` of the security event tokens of ``transmitter``."""
    public_url = settings.server.public_url.rstrip("/")
    return transmitter.audience or (f"{public_url}{settings.server.prefix}" if public_url else "")


def check_signals(settings: Settings) -> Iterator[Finding]:
    """Transmitters of configured providers, each once, with a secret and an audience."""
    providers = {provider.name for provider in settings.authentication_configuration.providers}
    seen: set[str] = set()
    for index, transmitter in enumerate(settings.signals.transmitters):
        place: Path = ("signals", "transmitters", index)
        if transmitter.provider not in providers:
            known = ", ".join(sorted(providers)) or "none"
            message = f"is {transmitter.provider}, which is no entry of providers; configured: {known}"
            yield Finding((*place, "provider"), message)
        if transmitter.provider in seen:
            yield Finding(
                (*place, "provider"), f"is {transmitter.provider}, as that of another entry; keep one of them"
            )
        seen.add(transmitter.provider)
        if not signal_audience(settings, transmitter):
            message = "is absent, and server.publicUrl, from which it would be built, is too; write one of the two"
            yield Finding((*place, "audience"), message)
        value = transmitter.authorization.reveal()
        if len(value) < _MIN_AUTHORIZATION or not value.isascii() or not value.isprintable():
            message = (
                f"must be at least {_MIN_AUTHORIZATION} printable ASCII characters: anyone who guesses it can have "
                "the sidecar verify tokens; openssl rand -base64 32 makes one"
            )
            yield Finding((*place, "authorization"), message)
