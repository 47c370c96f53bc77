"""The rotation of refresh tokens against a model of it: any order of presenting, waiting, changing the password and logging out."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from sqlalchemy import text

from wireroom_common.errors import WireroomError
from wireroom_common.ids import new_id
from wireroom_common.principal import Principal, PrincipalKind
from wireroom_protos.auth.v1 import auth_pb2
from wireroom_protos.events.v1 import events_pb2

AUTH = "/wireroom_protos.auth.v1.AuthService/"
GRACE = 30
# Neither step, nor a few of the short ones, comes near the grace: real seconds pass, too.
SHORT, LONG = 8, 40


@dataclass
class Token:
    """What the model knows of a refresh token."""

    text: str
    used_at: float | None = None
    successor: int | None = None


def machine(  # noqa: C901  one class with its rules
    auth: Any, loop: asyncio.AbstractEventLoop, password: str
) -> type[RuleBasedStateMachine]:
    def run(work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(60)

    class Rotation(RuleBasedStateMachine):
        presented = Bundle("presented")

        @initialize(target=presented)
        def sign_in(self) -> int:
            self.now, self.dead, self.reuses = 0.0, False, 0
            self.password, self.serial = password, 0
            email = f"user-{new_id()}@example.org"
            made = run(auth.add_user(email, "Viewer"))
            tokens = run(auth.login(email)).tokens
            self.caller = Principal(PrincipalKind.USER, made.subject, made.tenant_id, credential_id=tokens.session_id)
            self.tokens = [Token(tokens.refresh_token)]
            return 0

        @rule(target=presented, index=presented)
        def present(self, index: int) -> int:
            token = self.tokens[index]
            answer = self._refresh(token.text)
            latest = len(self.tokens) - 1
            if self.dead:
                assert answer is None
            elif token.used_at is None:
                assert answer is not None
                assert answer not in {known.text for known in self.tokens}
                token.used_at, token.successor = self.now, len(self.tokens)
                self.tokens.append(Token(answer))
                return token.successor
            elif self.now - token.used_at > GRACE:
                assert answer is None
                self.dead, self.reuses = True, self.reuses + 1
            elif token.successor == latest:
                assert answer == self.tokens[latest].text
                return latest
            else:
                assert answer is None
            return index

        @rule(seconds=st.sampled_from([SHORT, LONG]))
        def wait(self, seconds: int) -> None:
            run(auth.pass_time(seconds))
            self.now += seconds

        @rule(target=presented)
        def change_password(self) -> int:
            self.serial += 1
            fresh = f"a heron by the weir {self.serial}"
            request = auth_pb2.ChangePasswordRequest(current_password=self.password, new_password=fresh)
            answer, code = self._outcome(auth.call(AUTH + "ChangePassword", request, self.caller))
            assert code == ("account_unavailable" if self.dead else "")
            if answer is None:
                return 0
            self.password = fresh
            for token in self.tokens:
                token.used_at = self.now if token.used_at is None else token.used_at
                token.successor = None
            self.tokens.append(Token(answer.tokens.refresh_token))
            return len(self.tokens) - 1

        @rule()
        def log_out(self) -> None:
            run(auth.call(AUTH + "Logout", auth_pb2.LogoutRequest(), self.caller))
            self.dead = True

        @invariant()
        def one_token_at_most_is_unspent(self) -> None:
            if not hasattr(self, "tokens"):
                return
            stored = run(self._stored())
            assert len(stored) == len(self.tokens)
            assert [row.used_at is not None for row in stored] == [token.used_at is not None for token in self.tokens]
            assert sum(row.used_at is None for row in stored) == 1
            # A successor is kept for the last step alone, or wiped later.
            assert [row.successor is not None for row in stored] == [token.successor is not None for token in self.tokens]

        @invariant()
        def reuse_is_told_once(self) -> None:
            if hasattr(self, "tokens"):
                told = run(auth.events_of(events_pb2.AuthRefreshReuseDetected))
                assert sum(event.user_id == self.caller.subject for event in told) == self.reuses

        def _refresh(self, token: str) -> str | None:
            answer, code = self._outcome(auth.refresh(token))
            assert code in ("", "refresh_token_invalid")
            return str(answer.refresh_token) if answer is not None else None

        def _outcome(self, work: Coroutine[Any, Any, Any]) -> tuple[Any, str]:
            try:
                return run(work), ""
            except WireroomError as error:
                return None, error.code

        async def _stored(self) -> list[Any]:
            async with auth.database.tenant(self.caller.tenant()) as connection:
                rows = await connection.execute(
                    text("SELECT used_at, successor FROM refresh_tokens WHERE session_id = :id ORDER BY counter"),
                    {"id": UUID(self.caller.credential_id)},
                )
                return list(rows.all())

    return Rotation


async def test_rotation_follows_the_model_in_any_order(make_auth: Any, password: str) -> None:
    auth = await make_auth(refresh_grace_seconds=GRACE, refresh_token_seconds=90 * 86400)
    await auth.register_admin()
    checked = settings(
        max_examples=20,
        stateful_step_count=15,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    kind = machine(auth, asyncio.get_running_loop(), password)
    await asyncio.to_thread(run_state_machine_as_test, kind, settings=checked)
