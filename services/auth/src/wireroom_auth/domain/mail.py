"""What mails say. Nothing in them comes from people: a name or title that a stranger chose would make the service a mouthpiece."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

# Of mails that nobody waits for.
DEFAULT_LIFE = timedelta(days=1)
_TOKEN = re.compile(r"[A-Za-z0-9_-]{20,200}")


class MailKind(StrEnum):
    """What a mail is for. All but the notices carry a one-time token."""

    WELCOME = "welcome"
    SET_PASSWORD = "set_password"  # noqa: S105 - a kind of mail
    VERIFY = "verify"
    RESET = "reset"
    INVITATION = "invitation"
    PASSWORD_CHANGED = "password_changed"  # noqa: S105 - a kind of mail
    SECOND_FACTOR_CHANGED = "second_factor_changed"


@dataclass(frozen=True)
class MailText:
    """A mail ready to be put into an envelope."""

    subject: str
    plain: str
    html: str


@dataclass(frozen=True)
class _Template:
    subject: str
    before: str
    link: str = ""
    after: str = ""


_IGNORE = "If this was not you, ignore this mail."
_TEMPLATES = {
    MailKind.WELCOME: _Template(
        "Welcome to Wireroom",
        "An account was made for this e-mail address. Open this link to confirm that the address is yours:",
        "verify",
        "The link works once, for a day. If you did not ask for an account, ignore this mail.",
    ),
    MailKind.SET_PASSWORD: _Template(
        "Your account at Wireroom",
        "An administrator made an account for this e-mail address. Open this link to choose its password:",
        "reset",
        "The link works once, for a day. If you do not expect an account, ignore this mail.",
    ),
    MailKind.VERIFY: _Template(
        "Confirm your e-mail address",
        "Open this link to confirm that this e-mail address is yours:",
        "verify",
        f"The link works once, for a day. {_IGNORE}",
    ),
    MailKind.RESET: _Template(
        "Set a new password",
        "Somebody, probably you, asked to set a new password for your account. Open this link to choose one:",
        "reset",
        f"The link works once, for 30 minutes. {_IGNORE} Your password stays as it is.",
    ),
    MailKind.INVITATION: _Template(
        "You are invited to Wireroom",
        "You were invited to make an account. Open this link to choose a password:",
        "invitation",
        "The link works once. If you do not expect an invitation, ignore this mail.",
    ),
    MailKind.PASSWORD_CHANGED: _Template(
        "Your password was changed",
        "The password of your account was changed, and all other sessions were ended. If this was not you, set a new password"
        " at once and tell your administrator.",
    ),
    MailKind.SECOND_FACTOR_CHANGED: _Template(
        "Your second factor was changed",
        "The second factor of your account was switched on or off, or a recovery code was used. If this was not you, set a new"
        " password at once and tell your administrator.",
    ),
}


def compose(kind: MailKind, *, token: str, public_url: str) -> MailText:
    """The text of a mail. Links lead to the installation's public address; the token stands in the fragment, which is never sent.

    ValueError for a token that is missing or not made of URL-safe characters.
    """
    template = _TEMPLATES[kind]
    paragraphs = [template.before]
    marked = [f"<p>{html.escape(template.before)}</p>"]
    if template.link:
        if not _TOKEN.fullmatch(token):
            msg = f"A mail of kind {kind} needs a one-time token."
            raise ValueError(msg)
        link = f"{public_url}/auth/link#{template.link}={token}"
        paragraphs += [link, template.after]
        quoted = html.escape(link, quote=True)
        marked += [f'<p><a href="{quoted}">{quoted}</a></p>', f"<p>{html.escape(template.after)}</p>"]
    sender = f"Wireroom at {public_url}"
    plain = "\n\n".join([*paragraphs, f"-- \n{sender}"]) + "\n"
    body = "".join(marked)
    return MailText(
        template.subject,
        plain,
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(template.subject)}</title></head>'
        f"<body>{body}<p>{html.escape(sender)}</p></body></html>\n",
    )


def retry_after(attempts: int) -> timedelta:
    """The pause after the given number of failed attempts: half a minute, doubled each time, at most an hour."""
    return min(timedelta(seconds=30 * 2 ** min(attempts - 1, 20)), timedelta(hours=1))
