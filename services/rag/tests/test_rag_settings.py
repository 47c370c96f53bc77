"""Settings that cannot be used: one sentence that names them, before anything is started."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from wireroom_common.clock import SystemClock
from wireroom_common.errors import OperatorError
from wireroom_common.runtime.config_check import SettingsError, load
from wireroom_rag.adapters.blobs import BucketAccess, ObjectBlobs
from wireroom_rag.adapters.clamd import ClamdScanner
from wireroom_rag.embedding.files import ModelFiles
from wireroom_rag.embedding.provision import ensure_model
from wireroom_rag.settings import RagSettings

ENDPOINT = {"model": "wide", "base_url": "http://models/v1", "dimensions": 768}


def _endpoints(**members: Any) -> str:
    return json.dumps([{**ENDPOINT, **members}])


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("EMBEDDING_ENDPOINTS", "[{", "not valid JSON"),
        ("EMBEDDING_ENDPOINTS", "[{}]", "Field required"),
        ("EMBEDDING_ENDPOINTS", _endpoints(api_key_file="/nowhere/key"), "'/nowhere/key', which cannot be read: No such file"),
        ("EMBEDDING_ENDPOINTS", _endpoints(api_key_file="/"), "cannot be read"),
        ("EMBEDDING_ENDPOINTS", _endpoints(api_key_file="/dev/null"), "which is empty"),
        ("EMBEDDING_ENDPOINTS", _endpoints(api_key="two\nlines"), "no HTTP header can carry"),
        ("EMBEDDING_ENDPOINTS", _endpoints(base_url="http://models:port/v1"), "is no address"),
        ("EMBEDDING_ENDPOINTS", _endpoints(max_tokens=7), "between 50 and 2000"),
        ("EMBEDDING_ENDPOINTS", _endpoints(unknown=1), "Extra inputs"),
        ("EMBEDDING_ENDPOINTS", _endpoints(id="minilm-l6-v2"), "two models have the same id"),
        ("EMBEDDING_MODEL", "wide", "'wide' is not set up"),
        ("RERANKER", _endpoints(), "valid dictionary"),
        ("BLOBS_ENDPOINT", "storage:9000", "is no address"),
        ("BLOBS_ACCESS_KEY", "somebody", "set both or neither"),
        ("HEARTBEAT_SECONDS", "10", "must be at most half"),
        ("EXTRACTION_MEMORY_BYTES", str(10**15), "less than or equal to"),
        ("TENANT_MAX_BYTES", str(2**60), "less than or equal to"),
        ("VERSIONS_KEPT", "many", "valid integer"),
    ],
)
def test_setting_that_cannot_be_used_is_named_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(f"WIREROOM_RAG_{name}", value)
    with pytest.raises(SettingsError) as refused:
        load(RagSettings, None)
    assert f"WIREROOM_RAG_{name}" in str(refused.value)
    assert said in str(refused.value)
    assert len(str(refused.value).splitlines()) <= 4


def test_every_number_has_bounds_on_both_sides() -> None:
    for name, field in RagSettings.model_fields.items():
        if field.annotation in (int, float):
            bounds = {type(entry).__name__ for entry in field.metadata}
            assert bounds & {"Ge", "Gt"}, name
            assert bounds & {"Le", "Lt"}, name


def test_key_is_read_from_its_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("secret\n", encoding="utf-8")
    settings = RagSettings(embedding_endpoints=[{**ENDPOINT, "api_key_file": str(tmp_path / "key")}])  # type: ignore[list-item]  # as pydantic reads it
    (endpoint,) = settings.embedding_endpoints
    key = endpoint.http("wide").api_key
    assert key is not None
    assert key.get_secret_value() == "secret"
    (tmp_path / "key").unlink()
    with pytest.raises(OperatorError, match="The model 'wide' cannot be called: 'api_key_file'"):
        endpoint.http("wide")


async def test_folders_and_addresses_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_bytes(b"")
    for url in (f"file://{blocked}/blobs", "s3://", "s3:///prefix"):
        with pytest.raises(OperatorError, match="WIREROOM_RAG_BLOBS"):
            ObjectBlobs.at(url, tmp_path, SystemClock(), BucketAccess())
    for address in ("clamd", ":3310", "clamd:0", "clamd:99999", "clamd:\u0663"):
        with pytest.raises(OperatorError, match="WIREROOM_RAG_CLAMD"):
            ClamdScanner(address, timeout=1)
    with pytest.raises(OperatorError, match="WIREROOM_RAG_MODEL_DIR"):
        await ensure_model(ModelFiles(blocked / "models"))
