"""`Idempotency-Key`: one effect and one answer, however often and from wherever the request comes."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import pytest
import pytest_asyncio
import redis
from gateway_rig import Rig, running
from google.protobuf.message import Message

from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.rpc.context import current_effect_key
from wireroom_common.testing import eventually
from wireroom_protos.auth.v1 import auth_pb2
from wireroom_protos.chat.v1 import chat_pb2
from wireroom_protos.events.v1 import events_pb2
from wireroom_protos.news.v1 import news_pb2
from wireroom_protos.rag.v1 import collections_pb2, rag_pb2

FEEDS = "/api/v1/feeds"
FEED = {"url": "https://example.com/feed"}
LEASE = 0.6
Answer = tuple[int, dict[str, str], bytes]


class Shelf:
    """Feeds as `news` would make them: each call one more."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self.effect_keys: list[str] = []
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()
        self.failures: list[WireroomError] = []

    async def add(self, request: Any) -> news_pb2.AddFeedResponse:
        key = current_effect_key()
        self.effect_keys.append(key.value if key else "")
        if self.failures:
            raise self.failures.pop()
        self.made.append(str(uuid4()))
        mine = self.made[-1]
        await self.may_go_on.wait()
        return news_pb2.AddFeedResponse(feed=news_pb2.Feed(id=mine, url=request.url))


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest_asyncio.fixture
async def gateway(work_dir: Path, clean_valkey_url: str, shelf: Shelf) -> AsyncIterator[Rig]:
    settings = {"limits_enabled": False, "idempotency_lease_seconds": LEASE}
    async with running(work_dir, redis_url=clean_valkey_url, answers={"AddFeed": shelf.add}, **settings) as started:
        yield started


async def post(rig: Rig, key: str | None, path: str = FEEDS, body: Any = None, *, data: Any = None, **headers: str) -> Answer:
    sent = {**rig.bearer("feeds:manage", "docs:write", "llm:invoke", "apikeys:manage:own", "docs:read"), **headers}
    if key is not None:
        sent["idempotency-key"] = key
    given: dict[str, Any] = {"data": data} if data is not None else {"json": FEED if body is None else body}
    async with rig.session.post(path, headers=sent, **given) as reply:
        return reply.status, {name.lower(): value for name, value in reply.headers.items()}, await reply.read()


def code(answer: Answer) -> str:
    document = json.loads(answer[2])
    return str(document.get("code") or document["error"]["code"])


async def test_fifty_posts_at_once_have_one_effect_and_one_answer(gateway: Rig, shelf: Shelf) -> None:
    async def until_answered() -> Answer:
        while True:
            answer = await post(gateway, "fifty")
            if answer[0] != 409:
                return answer
            assert code(answer) == "idempotency_in_flight"
            assert answer[1]["retry-after"] == "1"
            await asyncio.sleep(0.02)

    answers = await asyncio.gather(*(until_answered() for _ in range(50)))
    assert len(shelf.made) == 1
    assert {(status, body) for status, _, body in answers} == {(201, answers[0][2])}
    assert json.loads(answers[0][2])["id"] == shelf.made[0]
    assert sum(headers.get("idempotency-replayed") == "true" for _, headers, _ in answers) == 49
    assert {headers["content-type"] for _, headers, _ in answers} == {"application/json"}


async def test_a_repeat_while_the_first_is_in_progress_is_told_to_wait_however_long_it_takes(gateway: Rig, shelf: Shelf) -> None:
    shelf.may_go_on.clear()
    first = asyncio.create_task(post(gateway, "slow"))
    await eventually(lambda: bool(shelf.made))
    loop = asyncio.get_running_loop()
    end = loop.time() + 2.5 * LEASE
    while loop.time() < end:
        assert code(await post(gateway, "slow")) == "idempotency_in_flight"
        await asyncio.sleep(0.1)
    shelf.may_go_on.set()
    assert (await first)[0] == 201
    assert (await post(gateway, "slow"))[1]["idempotency-replayed"] == "true"
    assert len(shelf.made) == 1


@pytest.mark.parametrize(
    "changed",
    [{"body": {"url": "https://example.com/other"}}, {"path": f"{FEEDS}?x=1"}],
    ids=["body", "query"],
)
async def test_another_request_with_the_key_is_refused(gateway: Rig, shelf: Shelf, changed: dict[str, Any]) -> None:
    assert (await post(gateway, "k"))[0] == 201
    answer = await post(gateway, "k", **changed)
    assert (answer[0], code(answer)) == (422, "idempotency_key_reused")
    assert len(shelf.made) == 1


async def test_keys_of_others_and_of_other_routes_are_independent(gateway: Rig, shelf: Shelf) -> None:
    first = await post(gateway, "k")
    others = [
        {"tid": str(uuid4())},
        {"sub": str(uuid4())},
        {"tid": str(uuid4()), "sub": str(uuid4())},
    ]
    bodies = {first[2]}
    for claims in others:
        answer = await post(gateway, "k", **gateway.bearer("feeds:manage", **claims))
        assert answer[0] == 201
        assert "idempotency-replayed" not in answer[1]
        bodies.add(answer[2])
    assert len(bodies) == len(shelf.made) == 4
    assert len(set(shelf.effect_keys)) == 4
    # The same key on another route is another operation.
    assert (await post(gateway, "k", "/api/v1/rag/query", {"query": "x"}))[0] == 200


async def test_without_a_key_each_post_counts(gateway: Rig, shelf: Shelf) -> None:
    for _ in range(3):
        assert (await post(gateway, None))[0] == 201
    assert len(shelf.made) == 3
    assert set(shelf.effect_keys) == {""}


@pytest.mark.parametrize(
    "error",
    [
        WireroomError(ErrorKind.INTERNAL, "internal", "x"),
        WireroomError(ErrorKind.UNAVAILABLE, "away", "x"),
        WireroomError(ErrorKind.RATE_LIMITED, "later", "x"),
        WireroomError(ErrorKind.DEADLINE, "slow", "x"),
    ],
    ids=lambda error: error.kind.value,
)
async def test_a_failure_leaves_the_key_free(gateway: Rig, shelf: Shelf, error: WireroomError) -> None:
    shelf.failures.append(error)
    assert (await post(gateway, "k"))[0] in (429, 500, 503, 504)
    assert (await post(gateway, "k"))[0] == 201
    assert (await post(gateway, "k"))[1]["idempotency-replayed"] == "true"
    assert len(shelf.made) == 1
    # All attempts were one operation to the service.
    assert len(set(shelf.effect_keys)) == 1


async def test_a_refusal_of_the_request_itself_is_repeated(gateway: Rig, shelf: Shelf) -> None:
    shelf.failures.append(WireroomError(ErrorKind.INVALID, "feed_unreachable", "No."))
    first, second = await post(gateway, "k"), await post(gateway, "k")
    assert (first[0], code(first)) == (400, "feed_unreachable")
    assert (second[0], second[2]) == (first[0], first[2])
    assert second[1]["idempotency-replayed"] == "true"
    assert second[1]["content-type"].startswith("application/problem+json")
    assert shelf.made == []


async def test_a_gateway_that_died_in_between_blocks_for_a_lease_only_and_the_service_knows_the_operation(
    gateway: Rig, shelf: Shelf, clean_valkey_url: str
) -> None:
    """The claim of a dead process is one that nobody renews: made by hand, the effect's key compared with that of the repeat."""
    assert (await post(gateway, "k"))[0] == 201
    with redis.Redis.from_url(clean_valkey_url) as client:
        (name,) = list(client.keys("idem:*"))
        client.set(name, b"P" + b"x" * 16, px=int(LEASE * 1000))
    assert code(await post(gateway, "k")) == "idempotency_in_flight"

    async def let_in() -> bool:
        return (await post(gateway, "k"))[0] == 201

    await eventually(let_in, within=5)
    # `news` claims this key in the effect's transaction, which refuses the second one.
    assert len(shelf.effect_keys) == 2
    assert len(set(shelf.effect_keys)) == 1


async def test_an_effect_that_the_service_knows_is_told_with_its_subject(gateway: Rig, shelf: Shelf) -> None:
    shelf.failures.append(WireroomError(ErrorKind.CONFLICT, "idempotency_effect_exists", "It took effect on 'abc'."))
    answer = await post(gateway, "k")
    assert (answer[0], code(answer)) == (409, "idempotency_effect_exists")
    assert "abc" in json.loads(answer[2])["detail"]


async def test_answers_with_credentials_are_never_stored(gateway: Rig, clean_valkey_url: str) -> None:
    secret = "wrk_canary-of-a-fresh-api-key"
    made = 0

    async def create(_request: Any) -> auth_pb2.CreateKeyResponse:
        nonlocal made
        made += 1
        return auth_pb2.CreateKeyResponse(key=auth_pb2.ApiKey(id="k", name="n"), secret=secret)

    async def refuse(_request: Any) -> auth_pb2.LoginResponse:
        raise WireroomError(ErrorKind.UNAUTHENTICATED, "credentials_wrong", "No.")

    gateway.neighbours.answers |= {"CreateKey": create, "Login": refuse}
    body = {"name": "n"}
    first = await post(gateway, "k", "/auth/api-keys", body)
    assert first[0] == 201
    assert secret.encode() in first[2]
    again = await post(gateway, "k", "/auth/api-keys", body)
    assert (again[0], code(again)) == (409, "idempotency_answer_not_kept")
    assert code(await post(gateway, "k", "/auth/api-keys", {"name": "m"})) == "idempotency_key_reused"
    assert made == 1
    login = {"email": "a@example.com", "password": "a password that is wrong"}
    statuses = [(await post(gateway, "k", "/auth/login", login))[0] for _ in range(2)]
    assert statuses == [401, 401]
    assert len(gateway.neighbours.called("Login")) == 2
    with redis.Redis.from_url(clean_valkey_url) as client:
        assert len(client.keys("idem:*")) == 1
        assert not any(secret.encode() in (client.get(name) or b"") for name in client.keys("*"))


async def test_stored_answers_cannot_be_read_in_the_store(gateway: Rig, shelf: Shelf, clean_valkey_url: str) -> None:
    key = "client-chosen-key"
    await post(gateway, key)
    with redis.Redis.from_url(clean_valkey_url) as client:
        (name,) = client.keys("idem:*")
        stored = client.get(name)
        assert client.ttl(name) > 86_000
    for text in (shelf.made[0], FEED["url"], key):
        assert text.encode() not in name + stored


async def test_a_repeated_upload_of_25_megabytes_is_replayed_and_reaches_the_service_once(gateway: Rig) -> None:
    received: list[int] = []

    async def upload(requests: Any) -> rag_pb2.UploadDocumentResponse:
        size = 0
        async for request in requests:
            size += len(request.data)
        received.append(size)
        return rag_pb2.UploadDocumentResponse(document=rag_pb2.Document(id=str(uuid4()), size=size))

    gateway.neighbours.answers["UploadDocument"] = upload
    content = bytes(range(256)) * 97_000

    async def send(content: bytes) -> Answer:
        head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\n\r\n'
        data = io.BytesIO(head + content + b"\r\n--b--\r\n")
        return await post(gateway, "up", "/api/v1/documents", data=data, **{"content-type": "multipart/form-data; boundary=b"})

    first, second = await send(content), await send(content)
    other = await send(b"x" + content[1:])
    assert (first[0], second[0]) == (202, 202)
    assert second[2] == first[2]
    assert second[1]["idempotency-replayed"] == "true"
    assert (other[0], code(other)) == (422, "idempotency_key_reused")
    assert received == [len(content)]


async def test_a_broken_off_upload_may_be_repeated(gateway: Rig) -> None:
    ended: list[str] = []

    async def upload(requests: Any) -> rag_pb2.UploadDocumentResponse:
        try:
            async for _ in requests:
                pass
        except BaseException:
            ended.append("broken")
            raise
        ended.append("whole")
        return rag_pb2.UploadDocumentResponse(document=rag_pb2.Document(id="d"))

    gateway.neighbours.answers["UploadDocument"] = upload
    part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + b"x" * 600_000
    content_type = "multipart/form-data; boundary=b"
    _, writer = await gateway.connect()
    head = gateway.head("POST", "/api/v1/documents", content_type=content_type, content_length="5000000", idempotency_key="up",
                        **gateway.bearer("docs:write"))  # fmt: skip
    writer.write(head + part)
    await writer.drain()
    await eventually(lambda: bool(gateway.neighbours.called("UploadDocument")))
    writer.close()
    await eventually(lambda: ended == ["broken"])

    async def repeated() -> bool:
        answer = await post(gateway, "up", "/api/v1/documents", data=part + b"\r\n--b--\r\n", **{"content-type": content_type})
        return answer[0] == 202

    await eventually(repeated, within=10)
    assert ended == ["broken", "whole"]


async def test_a_client_that_left_before_the_answer_gets_it_when_it_comes_back(gateway: Rig, shelf: Shelf) -> None:
    shelf.may_go_on.clear()
    body = json.dumps(FEED).encode()
    _, writer = await gateway.connect()
    head = gateway.head("POST", FEEDS, content_type="application/json", content_length=str(len(body)), idempotency_key="gone",
                        **gateway.bearer("feeds:manage"))  # fmt: skip
    writer.write(head + body)
    await eventually(lambda: bool(shelf.made))
    writer.close()
    await writer.wait_closed()
    shelf.may_go_on.set()

    async def replayed() -> bool:
        answer = await post(gateway, "gone", data=body, **{"content-type": "application/json"})
        return answer[1].get("idempotency-replayed") == "true" and json.loads(answer[2])["id"] == shelf.made[0]

    await eventually(replayed, within=5)
    assert len(shelf.made) == 1


async def test_completions_are_replayed_and_streams_are_not(gateway: Rig) -> None:
    calls = 0

    async def complete(_request: Any) -> chat_pb2.CompleteResponse:
        nonlocal calls
        calls += 1
        return chat_pb2.CompleteResponse(body=b'{"id":"c%d"}' % calls, info=chat_pb2.CompletionInfo(answer_mode="model"))

    async def stream(_request: Any) -> Any:
        yield chat_pb2.StreamCompleteResponse(info=chat_pb2.CompletionInfo(answer_mode="model"))
        yield chat_pb2.StreamCompleteResponse(data=b'{"choices":[]}')

    gateway.neighbours.answers |= {"Complete": complete, "StreamComplete": stream}
    question = {"model": "m", "messages": []}
    path = "/v1/chat/completions"
    first, second = await post(gateway, "c", path, question), await post(gateway, "c", path, question)
    assert first[0] == 200
    assert second[2] == first[2] == b'{"id":"c1"}'
    assert second[1]["x-answer-mode"] == first[1]["x-answer-mode"] == "model"
    streamed = await post(gateway, "s", path, {**question, "stream": True})
    assert streamed[0] == 200
    assert streamed[2].endswith(b"data: [DONE]\n\n")
    again = await post(gateway, "s", path, {**question, "stream": True})
    assert (again[0], code(again)) == (409, "idempotency_answer_not_kept")
    assert len(gateway.neighbours.called("StreamComplete")) == 1


@pytest.mark.parametrize("event", [events_pb2.RagAclChanged(collection_id="c"), events_pb2.RagDocumentDeleted(document_id="d")])
async def test_answers_from_before_something_was_taken_back_are_not_given_again(
    gateway: Rig, clean_valkey_url: str, event: Message
) -> None:
    asked: list[str] = []
    may_end = asyncio.Event()

    async def complete(_request: chat_pb2.CompleteRequest) -> chat_pb2.CompleteResponse:
        asked.append("once more")
        await may_end.wait()
        return chat_pb2.CompleteResponse(body=b'{"choices": []}')

    gateway.neighbours.answers["Complete"] = complete
    path, question = "/v1/chat/completions", {"model": "m", "messages": []}
    asking = asyncio.create_task(post(gateway, "during", path, question))
    await eventually(lambda: asked)
    await gateway.publish(event)
    may_end.set()
    assert (await asking)[0] == 200
    # Kept after the mark was set, it goes before it.
    with redis.Redis.from_url(clean_valkey_url) as store:
        marks = set(store.scan_iter("wireroom:gateway:sources:*"))
        ends = [store.pttl(name) for name in marks]
        kept = max(store.pttl(name) for name in store.scan_iter("idem:*"))
    assert (len(ends), ends[0] > kept) == (1, True)
    assert code(await post(gateway, "during", path, question)) == "idempotency_answer_not_kept"
    assert [(await post(gateway, "after", path, question))[0] for _ in range(2)] == [200, 200]
    assert len(asked) == 2
    # What quotes nothing is given again as ever.
    assert (await post(gateway, "feed"))[0] == 201
    await gateway.publish(event)
    assert (await post(gateway, "feed"))[1]["idempotency-replayed"] == "true"


@pytest.mark.parametrize(
    ("path", "named"), [("/api/v1/collections/{}/documents", "document_id"), ("/v1/vector_stores/{}/files", "file_id")]
)
async def test_an_answer_that_tells_of_a_document_is_not_given_again_once_somebody_may_read_less(
    gateway: Rig, path: str, named: str
) -> None:
    collection_id, document_id = str(uuid4()), str(uuid4())

    async def add(request: Any) -> collections_pb2.AddDocumentResponse:
        document = rag_pb2.Document(id=request.document_id, name="salaries.txt")
        member = collections_pb2.CollectionDocument(document=document, collection_id=request.collection_id)
        return collections_pb2.AddDocumentResponse(member=member)

    gateway.neighbours.answers["AddDocument"] = add
    caller = gateway.bearer("collections:manage:own")
    asked = ("k", path.format(collection_id), {named: document_id})
    first, again = [await post(gateway, *asked, **caller) for _ in range(2)]
    assert (first[0], again[1].get("idempotency-replayed"), again[2]) == (200, "true", first[2])
    await gateway.publish(events_pb2.RagAclChanged(collection_id=collection_id))
    later = await post(gateway, *asked, **caller)
    assert (later[0], code(later)) == (409, "idempotency_answer_not_kept")
    assert document_id.replace("-", "") not in later[2].decode().replace("-", "")
    assert len(gateway.neighbours.called("AddDocument")) == 1


async def test_an_answer_too_large_to_keep_arrives_whole_once(gateway: Rig) -> None:
    async def complete(_request: Any) -> chat_pb2.CompleteResponse:
        return chat_pb2.CompleteResponse(body=b'"' + b"x" * 300_000 + b'"')

    gateway.neighbours.answers["Complete"] = complete
    first = await post(gateway, "c", "/v1/chat/completions", {"model": "m", "messages": []})
    again = await post(gateway, "c", "/v1/chat/completions", {"model": "m", "messages": []})
    assert (first[0], len(first[2])) == (200, 300_002)
    assert (again[0], code(again)) == (409, "idempotency_answer_not_kept")


async def test_an_empty_answer_is_replayed(gateway: Rig) -> None:
    answers = [await post(gateway, "out", "/auth/logout", data=b"") for _ in range(2)]
    assert [(status, body) for status, _, body in answers] == [(204, b""), (204, b"")]
    assert answers[1][1]["idempotency-replayed"] == "true"
    assert len(gateway.neighbours.called("Logout")) == 1


@pytest.mark.parametrize("key", ["", " ", '""', "x" * 256, "tab\there", "ümlaut"])
async def test_what_is_no_key_is_refused(gateway: Rig, shelf: Shelf, key: str) -> None:
    answer = await post(gateway, key)
    assert (answer[0], code(answer)) == (400, "idempotency_key_invalid")
    assert shelf.made == []


async def test_two_keys_are_refused_and_a_quoted_key_is_the_same_as_a_bare_one(gateway: Rig, shelf: Shelf) -> None:
    headers = [*gateway.bearer("feeds:manage").items(), ("idempotency-key", "a"), ("idempotency-key", "b")]
    async with gateway.session.post(FEEDS, json=FEED, headers=headers) as reply:
        assert reply.status == 400
    assert (await post(gateway, '"quoted"'))[0] == 201
    assert (await post(gateway, "quoted"))[1]["idempotency-replayed"] == "true"
    assert len(shelf.made) == 1


async def test_while_the_store_is_away_posts_with_a_key_are_refused_and_others_are_not(work_dir: Path, shelf: Shelf) -> None:
    async with running(work_dir, answers={"AddFeed": shelf.add}) as rig:
        answer = await post(rig, "k")
        assert (answer[0], code(answer)) == (503, "idempotency_unavailable")
        assert int(answer[1]["retry-after"]) >= 1
        assert shelf.made == []
        assert (await post(rig, None))[0] == 201


async def test_a_key_needs_the_same_permission_as_the_request(gateway: Rig, shelf: Shelf) -> None:
    assert (await post(gateway, "k"))[0] == 201
    assert (await post(gateway, "k", **gateway.bearer("news:read")))[0] == 403
    async with (
        aiohttp.ClientSession() as nobody,
        nobody.post(f"{gateway.url}{FEEDS}", json=FEED, headers={"idempotency-key": "k"}) as reply,
    ):
        assert reply.status == 401


async def test_a_get_ignores_the_key(gateway: Rig) -> None:
    for _ in range(2):
        async with gateway.session.get("/auth/me", headers={**gateway.bearer(), "idempotency-key": "k"}) as reply:
            assert "idempotency-replayed" not in reply.headers
    assert len(gateway.neighbours.called("GetMe")) == 2
