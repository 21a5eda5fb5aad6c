"""Makes steps of a login HTTP responses: redirects, cookies, pages."""

from collections.abc import Callable
from html import escape

from sidecar.login.steps import PageStep, PasswordForm, Redirect, SetCookie, Step
from sidecar.web.response import Response

_COMMON = b"Cache-Control: no-store\r\nReferrer-Policy: no-referrer\r\nX-Content-Type-Options: nosniff\r\n"
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title></head>
<body><main><h1>{title}</h1><p>{message}</p>{actions}</main></body></html>
"""


RenderPage = Callable[[PageStep, str], str]
"""The HTML of a page; the text is the id of the request."""


class StepResponses:
    """``is_secure``: cookies are sent over https only. ``render`` None: pages are plain, without a stylesheet."""

    def __init__(self, *, is_secure: bool, render: RenderPage | None = None) -> None:
        self._render = render
        self._attributes = "; Path=/; HttpOnly; SameSite=Lax" + ("; Secure" if is_secure else "")

    def make(self, step: Step, request_id: str = "") -> Response:
        """The response. No cache may store it."""
        cookies = b"".join(self._cookie_line(cookie) for cookie in step.cookies)
        if isinstance(step, Redirect):
            location = b"Location: %b\r\n" % step.location.encode("ascii")
            return Response(303, _COMMON + location + cookies)
        targets = " ".join(("'self'", *step.form_targets))
        assets = "" if self._render is None else "style-src 'self'; script-src 'self'; img-src 'self'; "
        policy = f"default-src 'none'; {assets}form-action {targets}; base-uri 'none'; frame-ancestors 'none'"
        lines = (
            b"Content-Type: text/html; charset=utf-8\r\nVary: Cookie\r\nX-Frame-Options: DENY\r\n"
            b"Content-Security-Policy: %b\r\n" % policy.encode("ascii")
        )
        wait = step.retry_after or (5 if step.status == 503 else 0)
        retry = b"Retry-After: %d\r\n" % wait if wait else b""
        text = _plain(step) if self._render is None else self._render(step, request_id)
        return Response(step.status, _COMMON + lines + retry + cookies, text.encode())

    def _cookie_line(self, cookie: SetCookie) -> bytes:
        age = "" if cookie.max_age is None else f"; Max-Age={cookie.max_age}"
        return f"Set-Cookie: {cookie.name}={cookie.value}{self._attributes}{age}\r\n".encode("ascii")


def _plain(page: PageStep) -> str:
    actions = [
        f'<p><a href="{escape(link.href)}">{escape(link.label)}</a> {escape(link.note)}</p>' for link in page.links
    ]
    if page.password is not None:
        actions.append(_password_form(page.password))
    if page.button:
        field = f'<input type="hidden" name="token" value="{escape(page.form_token)}">'
        actions.append(f'<form method="post">{field}<button>{escape(page.button)}</button></form>')
    return _PAGE.format(title=escape(page.title), message=escape(page.message), actions="".join(actions))


def _password_form(form: PasswordForm) -> str:
    hidden = "".join(
        f'<input type="hidden" name="{name}" value="{escape(value)}">'
        for name, value in (("token", form.token), ("rd", form.return_to))
    )
    return (
        f'<form method="post" action="{escape(form.action)}">{hidden}'
        f'<p><label>User name <input name="username" value="{escape(form.user)}" autocomplete="username" required '
        'autocapitalize="none" spellcheck="false"></label></p>'
        '<p><label>Password <input name="password" type="password" autocomplete="current-password" required>'
        "</label></p>"
        "<p><button>Sign in</button></p></form>"
    )
