"""Files and vector stores with the unmodified `openai` SDK, and answers that rest on one collection."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from api import Api, wait_for
from conftest import Installation

PASSWORD = "correct horse battery staple"
_serial = itertools.count()
TIDES = b"The tide table of Skagern harbour names 4.2 metres for the spring flood.\n"
ROPES = b"The ropes of Skagern harbour are replaced every 14 months by the rigger.\n"


def sdk(api: Api) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{api.base_url}/v1", api_key=api.key, timeout=60, max_retries=0)


@pytest.fixture
def client(installation: Installation) -> openai.OpenAI:
    return sdk(installation.admin)


@pytest.fixture
def file_ids(client: openai.OpenAI) -> Iterator[tuple[str, str]]:
    """Two files, which can be searched."""
    number = next(_serial)
    ids = []
    for name, content in ((f"tides-{number}.txt", TIDES), (f"ropes-{number}.txt", ROPES)):
        made = client.files.create(file=(name, io.BytesIO(content)), purpose="assistants")
        assert (made.object, made.filename, made.bytes, made.purpose) == ("file", name, len(content), "assistants")
        ids.append(client.files.wait_for_processing(made.id, poll_interval=0.1, max_wait_seconds=30).id)
    yield ids[0], ids[1]
    for file_id in ids:
        client.files.delete(file_id)


def colleague(installation: Installation, role: str) -> openai.OpenAI:
    """Another user of the tenant."""
    account = {"email": f"{role.lower()}-{next(_serial)}@example.com", "password": PASSWORD}
    installation.admin.post("/api/v1/admin/users", {**account, "name": role, "roles": [role]})
    token = Api(installation.admin.base_url).post("/auth/login", account)["access_token"]
    return sdk(Api(installation.admin.base_url, token))


def test_files(client: openai.OpenAI, file_ids: tuple[str, str]) -> None:
    tides, ropes = file_ids
    assert tides.startswith("file-")
    found = client.files.retrieve(tides)
    assert (found.status, found.status_details) == ("processed", None)
    assert client.files.content(tides).read() == TIDES
    listed = [file.id for file in client.files.list(limit=1)]
    assert listed[:2] == [ropes, tides]
    assert next(file.id for file in client.files.list(order="asc", after=tides)) == ropes
    again = client.files.create(file=("gone.txt", b"Soon gone."), purpose="user_data")
    assert client.files.delete(again.id).deleted
    with pytest.raises(openai.NotFoundError) as missing:
        client.files.retrieve(again.id)
    assert missing.value.code == "document_not_found"
    with pytest.raises(openai.BadRequestError) as refused:
        client.files.create(file=("x.jsonl", b"{}"), purpose="fine-tune")
    assert refused.value.code == "purpose_unsupported"
    with pytest.raises(openai.NotFoundError):
        client.files.content("file-unheard-of")


def test_vector_store(client: openai.OpenAI, file_ids: tuple[str, str]) -> None:
    tides, ropes = file_ids
    store = client.vector_stores.create(name="Harbour", file_ids=[tides], metadata={"place": "Skagern"})
    assert store.id.startswith("vs_")
    assert (store.object, store.name, store.status, store.metadata) == (
        "vector_store",
        "Harbour",
        "completed",
        {"place": "Skagern"},
    )
    assert (store.file_counts.completed, store.file_counts.total, store.usage_bytes) == (1, 1, len(TIDES))
    added = client.vector_stores.files.create_and_poll(
        ropes, vector_store_id=store.id, attributes={"topic": "ropes", "year": 2024}
    )
    assert (added.status, added.vector_store_id, added.attributes) == ("completed", store.id, {"topic": "ropes", "year": 2024})
    assert client.vector_stores.files.retrieve(ropes, vector_store_id=store.id).last_error is None
    assert [file.id for file in client.vector_stores.files.list(store.id, limit=1)] == [ropes, tides]
    assert [file.id for file in client.vector_stores.files.list(store.id, filter="failed")] == []
    assert client.vector_stores.retrieve(store.id).file_counts.total == 2
    assert client.vector_stores.update(store.id, name="Port", metadata={"place": "Vik"}).name == "Port"
    assert store.id in [entry.id for entry in client.vector_stores.list(limit=1)]

    results = client.vector_stores.search(store.id, query="How high is the spring flood?").data
    assert results[0].file_id == tides
    assert "4.2 metres" in results[0].content[0].text
    assert all(0 < result.score <= 1 for result in results)
    both = client.vector_stores.search(store.id, query=["spring flood", "rigger"], max_num_results=2, rewrite_query=True).data
    assert {result.file_id for result in both} == {tides, ropes}
    (only,) = client.vector_stores.search(
        store.id, query="harbour", filters={"type": "and", "filters": [{"type": "eq", "key": "topic", "value": "ropes"}]}
    ).data
    assert (only.file_id, only.attributes) == (ropes, {"topic": "ropes", "year": 2024})
    older = {"type": "lt", "key": "year", "value": 1999}
    assert client.vector_stores.search(store.id, query="harbour", filters=older).data == []  # type: ignore[arg-type]  # as above
    for wrong in ({"type": "near", "key": "year", "value": 3}, {"type": "or", "filters": []}):
        with pytest.raises(openai.BadRequestError) as refused:
            client.vector_stores.search(store.id, query="harbour", filters=wrong)  # type: ignore[arg-type]  # pieces of either type
        assert refused.value.code == "filter_unsupported"

    assert client.vector_stores.files.delete(tides, vector_store_id=store.id).deleted
    assert {result.file_id for result in client.vector_stores.search(store.id, query="spring flood").data} == {ropes}
    assert client.vector_stores.delete(store.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.vector_stores.search(store.id, query="harbour")
    assert client.files.retrieve(ropes).status == "processed"


def test_file_batches(client: openai.OpenAI, file_ids: tuple[str, str]) -> None:
    tides, ropes = file_ids
    store = client.vector_stores.create(name="Batches")
    batches = client.vector_stores.file_batches
    made = batches.create_and_poll(store.id, file_ids=[tides, ropes], attributes={"year": 2026}, poll_interval_ms=100)
    assert (made.object, made.status, made.vector_store_id) == ("vector_store.files_batch", "completed", store.id)
    assert (made.file_counts.completed, made.file_counts.total) == (2, 2)
    first = batches.list_files(made.id, vector_store_id=store.id, limit=1)
    assert ([file.id for file in first], first.data[0].attributes) == ([ropes, tides], {"year": 2026})

    uploads = [("buoys.txt", b"The buoys of Skagern harbour are painted in May.\n"), ("blank.txt", b" \n")]
    sent = batches.upload_and_poll(store.id, files=uploads, poll_interval_ms=100)
    counts = sent.file_counts
    assert (sent.status, counts.completed, counts.failed, counts.total) == ("completed", 1, 1, 2)
    (failed,) = batches.list_files(sent.id, vector_store_id=store.id, filter="failed")
    assert failed.last_error is not None
    assert client.vector_stores.retrieve(store.id).file_counts.total == 4

    each = batches.create(store.id, files=[{"file_id": tides, "attributes": {"topic": "tides"}}])
    assert client.vector_stores.files.retrieve(tides, vector_store_id=store.id).attributes == {"topic": "tides"}
    # What has been read stays.
    cancelled = batches.cancel(each.id, vector_store_id=store.id)
    assert (cancelled.status, cancelled.file_counts.cancelled) == ("cancelled", 0)
    assert batches.retrieve(each.id, vector_store_id=store.id).status == "cancelled"
    static: Any = {"type": "static", "static": {"max_chunk_size_tokens": 800, "chunk_overlap_tokens": 400}}
    for wrong in ({"file_ids": []}, {"file_ids": [tides], "files": [{"file_id": tides}]}, {"file_ids": [tides, tides]}):
        with pytest.raises((openai.BadRequestError, openai.UnprocessableEntityError)):
            batches.create(store.id, extra_body=wrong)
    with pytest.raises(openai.BadRequestError) as refused:
        batches.create(store.id, file_ids=[tides], chunking_strategy=static)
    assert refused.value.code == "chunking_unsupported"
    with pytest.raises(openai.NotFoundError):
        batches.retrieve("vsfb_unheard_of", vector_store_id=store.id)
    client.vector_stores.delete(store.id)
    with pytest.raises(openai.NotFoundError):
        batches.retrieve(made.id, vector_store_id=store.id)
    for file in [entry.id for entry in client.files.list() if entry.filename in dict(uploads)]:
        client.files.delete(file)


def test_a_collection_names_its_providers(installation: Installation) -> None:
    api = installation.admin
    made = api.post("/api/v1/collections", {"name": f"Named {next(_serial)}", "providers": ["openai", "local"]})
    path = f"/api/v1/collections/{made['id']}"
    assert (made["providers"], api.get(path)["providers"]) == (["local", "openai"],) * 2
    assert api.call("PATCH", path, {"name": "Renamed"}).json["providers"] == ["local", "openai"]
    assert api.call("PATCH", path, {"providers": ["any"]}).json["providers"] == ["any"]
    for wrong in ([], ["any", "local"], ["Open AI"]):
        assert api.call("PATCH", path, {"providers": wrong}).status in (400, 422)
    assert api.post("/api/v1/collections", {"name": "Unnamed"})["providers"] == ["any"]
    assert api.call("DELETE", path).status == 204


def test_what_cannot_be_read_is_failed(client: openai.OpenAI) -> None:
    store = client.vector_stores.create(name="Blank")
    blank = client.vector_stores.files.upload_and_poll(
        vector_store_id=store.id, file=("blank.txt", b" \n\t\n"), poll_interval_ms=100
    )
    assert blank.status == "failed"
    assert blank.last_error is not None
    assert (blank.last_error.code, client.files.retrieve(blank.id).status) == ("invalid_file", "error")
    assert client.vector_stores.retrieve(store.id).file_counts.failed == 1
    client.files.delete(blank.id)


def test_who_reaches_a_vector_store(installation: Installation, client: openai.OpenAI, file_ids: tuple[str, str]) -> None:
    analyst, viewer = colleague(installation, "Analyst"), colleague(installation, "Viewer")
    shared = client.vector_stores.create(name="Shared", file_ids=list(file_ids), extra_body={"visibility": "tenant"}).id
    private = client.vector_stores.create(name="Private", file_ids=list(file_ids)).id
    for other in (analyst, viewer):
        assert other.vector_stores.search(shared, query="harbour").data
        assert private not in [store.id for store in other.vector_stores.list()]
        with pytest.raises(openai.NotFoundError):
            other.vector_stores.search(private, query="harbour")
    with pytest.raises(openai.PermissionDeniedError) as not_owner:
        analyst.vector_stores.delete(shared)
    assert not_owner.value.code == "collection_not_owned"
    with pytest.raises(openai.PermissionDeniedError):
        viewer.vector_stores.create(name="Mine")
    own = analyst.vector_stores.create(name="Mine", file_ids=[file_ids[0]]).id
    # An administrator manages the collections of all.
    assert client.vector_stores.delete(own).deleted
    for store in (shared, private):
        client.vector_stores.delete(store)


def test_an_answer_rests_on_its_collection(installation: Installation, client: openai.OpenAI, file_ids: tuple[str, str]) -> None:
    tides, ropes = file_ids
    name = f"Rigging {next(_serial)}"
    made = installation.admin.post("/api/v1/collections", {"name": name, "document_ids": [ropes.removeprefix("file-")]})
    question = "How high is the spring flood in the tide table of Skagern harbour?"

    def answer(source: str, model: str = "grounded") -> str:
        completion = client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": question}], extra_body={"grounding": {"sources": [source]}}
        )
        return completion.choices[0].message.content or ""

    assert "4.2 metres" in answer("docs")
    for source in (f"docs:{name}", f"docs:{made['id']}"):
        for model in ("grounded", "docs", "extractive"):
            assert "4.2 metres" not in answer(source, model)
    installation.admin.post(f"/api/v1/collections/{made['id']}/documents", {"document_id": tides.removeprefix("file-")})
    # Answers that were kept before go when the change has been told.
    assert wait_for(lambda: "4.2 metres" in answer(f"docs:{name}"))
    with pytest.raises(openai.NotFoundError) as unknown:
        answer("docs:never made")
    assert unknown.value.code == "collection_not_found"
    passages = installation.admin.post("/api/v1/rag/query", {"query": question, "collections": [name]})["passages"]
    assert {passage["document_id"].replace("-", "") for passage in passages} <= {
        file_id.removeprefix("file-") for file_id in file_ids
    }
    assert installation.admin.call("DELETE", f"/api/v1/collections/{made['id']}").status == 204
