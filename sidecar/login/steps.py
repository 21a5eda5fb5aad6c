"""What happens next in a login, as values."""

from dataclasses import dataclass, field

from sidecar.errors import Failed, Unavailable


@dataclass(frozen=True, slots=True)
class SetCookie:
    """A cookie to set. ``max_age``: seconds; None: until the browser is closed; 0: delete it."""

    name: str
    value: str = field(default="", repr=False)
    max_age: int | None = None


@dataclass(frozen=True, slots=True)
class Redirect:
    """Lead the browser to ``location``, which was checked or comes from a provider's metadata."""

    location: str
    cookies: tuple[SetCookie, ...] = ()


@dataclass(frozen=True, slots=True)
class Link:
    """A link of a page. ``note`` stands beside it. ``badge``: a letter for the provider that the link leads to."""

    label: str
    href: str
    note: str = ""
    badge: str = ""


@dataclass(frozen=True, slots=True)
class PasswordForm:
    """A form with user name and password, which is posted to ``action`` with ``token`` and the address ``return_to``.

    ``user`` is what was entered before.
    """

    action: str
    token: str = field(repr=False)
    return_to: str
    user: str = ""


@dataclass(frozen=True, slots=True)
class PageStep:
    """Show a page: a title, a sentence, links, and perhaps a form with one button that posts ``form_token``.

    ``failure`` is what the page reports, for the log. ``form_targets`` are the origins to which the form may redirect.
    ``password``: a form for user name and password. ``retry_after``: seconds after which to try again.
    """

    status: int
    title: str
    message: str
    links: tuple[Link, ...] = ()
    button: str = ""
    form_token: str = field(default="", repr=False)
    form_targets: tuple[str, ...] = ()
    cookies: tuple[SetCookie, ...] = ()
    failure: Failed | None = None
    password: PasswordForm | None = None
    retry_after: int = 0


Step = Redirect | PageStep


def unavailable(failure: Unavailable) -> PageStep:
    """The page for what cannot be decided now."""
    text = "The request cannot be completed now. Try again in a moment."
    return PageStep(503, "Temporarily unavailable", text, failure=failure)
