"""A user takes everything along, is erased in every service, and gets one receipt; nothing of the user's is left in any store."""

from __future__ import annotations

import base64
import io
import itertools
import json
import random
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
from api import Api, wait_for
from conftest import PASSWORD, Installation
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from harness import Deployment, Running
from psycopg import sql

from wireroom.roles import SCHEMAS
from wireroom_common.runtime.embedded import EmbeddedPostgres, EmbeddedValkey

STORES = {"auth", "chat", "monitoring", "news", "rag"}
_serial = itertools.count()


@dataclass(frozen=True)
class Leaver:
    """A user with a word that stands in everything the user has."""

    api: Api
    id: str
    marker: str


def new_marker() -> str:
    """No word of any language, and nothing that stemming would cut."""
    return "zq" + "".join(random.SystemRandom().choices("bdfghjkmpvwx", k=18))


def joined(installation: Installation, role: str, name: str = "") -> tuple[Api, str]:
    """A new user of the tenant, signed in."""
    email = f"{name or 'u'}{next(_serial)}@example.com"
    made = installation.admin.post("/api/v1/admin/users", {"email": email, "name": name, "roles": [role], "password": PASSWORD})
    nobody = Api(installation.running.base_url)
    reply = nobody.call("POST", "/auth/login", {"email": email, "password": PASSWORD}, headers={"User-Agent": f"browser {name}"})
    return Api(nobody.base_url, reply.json["access_token"]), made["id"]


def leaver_of(installation: Installation) -> Leaver:
    """Somebody who has left the word wherever there is room for it."""
    marker = new_marker()
    api, user_id = joined(installation, "Analyst", marker)
    nobody = Api(installation.running.base_url)
    nobody.call("POST", "/auth/login", {"email": f"{marker}@example.com", "password": "wrong " * 3})
    api.post("/auth/api-keys", {"name": marker})
    api.indexed(f"{marker}.txt", f"The tide of {marker} is 4.2 metres. {marker} is a harbour.".encode())
    assert api.upload(f"{marker}-broken.pdf", f"%PDF-1.7 {marker}".encode(), "application/pdf").status in {202, 400, 415, 422}
    api.post("/api/v1/collections", {"name": marker, "description": marker})
    session = api.post("/api/v1/sessions", {"title": marker})["id"]
    answer = api.post(
        "/api/v1/chat", {"message": f"How high is the tide of {marker}?", "session_id": session, "model": "extractive"}
    )
    api.call("POST", f"/api/v1/messages/{answer['message_id']}/feedback", {"score": 1, "comment": marker})
    api.post("/v1/responses", {"model": "grounded", "input": f"What is {marker}?"})
    completion = {"model": "grounded", "messages": [{"role": "user", "content": f"How high is the tide of {marker}?"}]}
    api.post("/v1/chat/completions", completion)
    api.post("/api/v1/rag/query", {"query": f"the harbour {marker}"})
    return Leaver(api, user_id, marker)


def test_erased_user_leaves_nothing_but_a_receipt(installation: Installation) -> None:
    running, admin = installation.running, installation.admin
    leaver = leaver_of(installation)
    before = places(running, leaver.marker)
    assert {"auth.users", "auth.api_keys", "chat.sessions", "chat.messages", "rag.documents", "rag.collections"} <= before
    taken_along(leaver, admin)

    refused = leaver.api.call("DELETE", "/api/v1/privacy/me", {"password": "not the right one"})
    assert (refused.status, refused.json["code"]) == (403, "password_wrong")
    one_is_down = running.deployment is Deployment.DISTRIBUTED
    if one_is_down:
        running.kill("news")
    begun = leaver.api.call("DELETE", "/api/v1/privacy/me", {"password": PASSWORD})
    assert begun.status == 202, begun.body
    erasure, receipt_url = begun.json["erasure"], begun.json["receipt_url"]
    wait_for(lambda: leaver.api.call("GET", "/auth/me").status == 401, within=5)
    nobody = Api(running.base_url)
    if one_is_down:
        others = STORES - {"news"}
        wait_for(lambda: answered(nobody.get(receipt_url)) == others, within=60, every=0.5)
        waiting = nobody.get(receipt_url)
        assert (waiting["state"], waiting["receipt"]) == ("running", "")
        running.start("news")
    done = wait_for(lambda: completed(nobody.get(receipt_url)), within=60, every=0.5)

    content = json.loads(done["receipt"])
    key = Ed25519PublicKey.from_public_bytes(base64.b64decode(nobody.get("/api/v1/privacy/receipt-key")["public_key"]))
    key.verify(base64.b64decode(done["signature"]), done["receipt"].encode())
    assert (content["subject"], content["erasure_id"]) == (f"user:{leaver.id}", erasure["id"])
    counts = {store["store"]: store["counts"] for store in content["stores"]}
    assert set(counts) == STORES
    assert counts["auth"]["users"] == counts["auth"]["api_keys"] == 1
    assert (counts["chat"]["sessions"], counts["chat"]["responses"], counts["chat"]["feedback"]) == (1, 1, 1)
    assert counts["rag"]["documents"] >= 1
    assert counts["rag"]["collections"] == 1
    assert counts["monitoring"]["events"] > 0

    def nothing_left() -> bool:
        found = places(running, leaver.marker)
        assert not found, found
        return True

    assert wait_for(nothing_left, within=30, every=1)
    assert admin.get(f"/api/v1/privacy/erasures/{erasure['id']}")["receipt"] == done["receipt"]
    assert nobody.call("GET", receipt_url[:-3] + "xyz").status == 404
    assert admin.get("/api/v1/audit/verify")["intact"]


@pytest.mark.timeout(120)
def test_what_a_leaver_shared_stays_with_an_heir(installation: Installation) -> None:
    admin = installation.admin
    marker = new_marker()
    leaver, leaver_id = joined(installation, "Analyst")
    heir, heir_id = joined(installation, "Analyst")
    shared = leaver.indexed("plan.txt", f"The {marker} stands open to all.".encode())["id"]
    own = leaver.indexed("diary.txt", b"Nobody else reads this page.")["id"]
    assert leaver.call("PUT", f"/api/v1/documents/{own}/access", {"access": "private"}).status == 200
    bad = admin.call("DELETE", f"/api/v1/admin/users/{leaver_id}?to={leaver_id}")
    assert (bad.status, bad.json["code"]) == (400, "transfer_target_invalid")
    gone = admin.call("DELETE", f"/api/v1/admin/users/{leaver_id}?documents=transfer&to={heir_id}")
    assert gone.status == 204
    location = gone.headers["location"]
    done = wait_for(lambda: completed(admin.get(location)), within=60, every=0.5)
    assert done["transfer_to"] == heir_id
    assert heir.call("DELETE", f"/api/v1/documents/{shared}").status == 204
    assert admin.call("GET", f"/api/v1/documents/{own}").status == 404


def answered(erasure: Any) -> set[str]:
    return {store["store"] for store in erasure["stores"] if store["done_at"]}


def completed(erasure: Any) -> Any:
    return erasure if erasure["state"] == "completed" else None


def taken_along(leaver: Leaver, admin: Api) -> None:
    """The export holds everything of the user, and of nobody else."""
    reply = leaver.api.call("POST", "/api/v1/privacy/export")
    assert (reply.status, reply.headers["content-type"]) == (200, "application/zip")
    with zipfile.ZipFile(io.BytesIO(reply.body)) as archive:
        assert archive.testzip() is None
        texts = {name: archive.read(name).decode() for name in archive.namelist()}
    for name in ("profile", "api_keys", "logins", "sessions", "messages", "feedback", "responses", "documents", "collections"):
        assert leaver.marker in texts[f"{name}.jsonl"], name
        assert all(json.loads(line) for line in texts[f"{name}.jsonl"].splitlines())
    assert "data.exported" in texts["audit.jsonl"] or "session.opened" in texts["audit.jsonl"]
    originals = [text for name, text in texts.items() if name.startswith("originals/")]
    assert any(f"The tide of {leaver.marker}" in text for text in originals)
    told = json.loads(texts["complete.json"])
    assert told["originals"] == len(originals)
    assert told["counts"]["sessions"] == 1
    assert wait_for(lambda: admin.audit_records(action="data.exported", actor=leaver.id))


def places(running: Running, marker: str) -> set[str]:
    """Every table, Redis value, file and log in which the marker stands."""
    return {*in_tables(running, marker), *in_redis(running, marker), *in_files(running, marker)}


def in_tables(running: Running, marker: str) -> set[str]:
    found = set()
    needle = marker.encode()
    with psycopg.connect(database_url(running), connect_timeout=10) as connection:
        tables = connection.execute(
            "SELECT table_schema, table_name FROM information_schema.tables"
            " WHERE table_schema = ANY(%s) AND table_type = 'BASE TABLE'",
            (list(SCHEMAS),),
        ).fetchall()
        assert len(tables) > 20
        for schema, table in tables:
            with connection.cursor(binary=True) as cursor:
                query = sql.SQL("COPY (SELECT * FROM {}) TO STDOUT (FORMAT binary)").format(sql.Identifier(schema, table))
                with cursor.copy(query) as copy:
                    if needle in b"".join(bytes(block).lower() for block in copy):
                        found.add(f"{schema}.{table}")
    return found


def in_redis(running: Running, marker: str) -> set[str]:
    url = running.environment.get("WIREROOM_REDIS_URL") or EmbeddedValkey((running.folder / "data").resolve()).start()
    found = set()
    with redis.Redis.from_url(url, socket_timeout=10) as client:
        for name in client.scan_iter(count=1000):
            value = client.dump(name) or b""
            if marker.encode() in name.lower() or marker.encode() in value.lower():
                found.add(f"redis {name!r}")
    return found


def in_files(running: Running, marker: str) -> set[str]:
    """Blobs and whatever else a service keeps in files, and the logs; the servers' own files are looked at through the servers."""
    servers = {"postgresql", "valkey", "rabbitmq"}
    return {
        str(path.relative_to(running.folder))
        for path in running.folder.rglob("*")
        if path.is_file() and not servers & set(Path(path).parts) and "servers" not in path.parts and holds(path, marker)
    }


def holds(path: Path, marker: str) -> bool:
    try:
        return marker.encode() in path.read_bytes().lower()
    except OSError:
        return False


def database_url(running: Running) -> str:
    if given := running.environment.get("WIREROOM_DATABASE_ADMIN_URL"):
        return given
    server = EmbeddedPostgres((running.folder / "data").resolve())
    return server.admin_url(server.start())
