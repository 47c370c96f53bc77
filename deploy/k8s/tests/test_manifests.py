"""The manifests are valid, complete, hardened, and agree with each other, with skaffold.yaml and with the code."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from wireroom.roles import ROLES
from wireroom_common.runtime.settings import RuntimeSettings

K8S = Path(__file__).resolve().parents[1]
ROOT = K8S.parents[1]
BASE = K8S / "base"
VERSION = "1.34"
SERVICES = tuple(role for role in ROLES if role != "gateway")


def _files() -> list[Path]:
    return sorted(path for path in BASE.iterdir() if path.suffix in {".yaml", ".yml"} and path.name != "kustomization.yaml")


def _objects() -> list[dict[str, Any]]:
    return [document for path in _files() for document in yaml.safe_load_all(path.read_text()) if document is not None]


def _of(kind: str) -> dict[str, dict[str, Any]]:
    return {item["metadata"]["name"]: item for item in _objects() if item["kind"] == kind}


def _workloads() -> dict[str, dict[str, Any]]:
    return {**_of("Deployment"), **_of("Job")}


def _pods() -> list[Any]:
    return [pytest.param(item["spec"]["template"], id=name) for name, item in _workloads().items()]


def _containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def _environment(container: dict[str, Any]) -> dict[str, str]:
    config = (
        _of("ConfigMap")["wireroom"]["data"] if any("configMapRef" in source for source in container.get("envFrom", [])) else {}
    )
    return {**config, **{entry["name"]: str(entry.get("value", "")) for entry in container.get("env", [])}}


def test_there_is_something_to_check() -> None:
    assert set(_of("Deployment")) == set(ROLES)
    assert len(_objects()) > len(ROLES) * 4


def test_kustomization_lists_every_file() -> None:
    kustomization = yaml.safe_load((BASE / "kustomization.yaml").read_text())
    assert sorted(kustomization["resources"]) == [path.name for path in _files()]
    assert kustomization["namespace"] == next(iter(_of("Namespace")))


@pytest.mark.parametrize("item", [pytest.param(item, id=f"{item['kind']}-{item['metadata']['name']}") for item in _objects()])
def test_object_fits_the_schema_of_kubernetes(item: dict[str, Any]) -> None:
    kubernetes_validate.validate(item, VERSION, strict=True)


def test_the_schema_check_can_fail() -> None:
    broken = {**_of("Deployment")["auth"], "spce": {}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, VERSION, strict=True)


def test_no_object_is_defined_twice() -> None:
    names = [(item["kind"], item["metadata"]["name"]) for item in _objects()]
    assert len(names) == len(set(names))


def test_namespace_enforces_the_restricted_profile() -> None:
    (namespace,) = _of("Namespace").values()
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


@pytest.mark.parametrize("pod", _pods())
def test_pod_is_hardened(pod: dict[str, Any]) -> None:
    spec = pod["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["serviceAccountName"] in _of("ServiceAccount")
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert {kind for volume in spec["volumes"] for kind in volume if kind != "name"} <= {
        "emptyDir",
        "projected",
        "secret",
        "persistentVolumeClaim",
    }
    for container in _containers(pod):
        context = container["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert "privileged" not in context
        assert {"cpu", "memory", "ephemeral-storage"} <= set(container["resources"]["requests"])
        assert {"cpu", "memory", "ephemeral-storage"} <= set(container["resources"]["limits"])
        assert not re.search(r":latest$|^[^:@]+$", container["image"])
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        assert {"/tmp", "/var/lib/wireroom"} <= set(mounts)
        assert set(mounts.values()) == {volume["name"] for volume in spec["volumes"]}


@pytest.mark.parametrize("role", ROLES)
def test_role_is_probed_drained_and_kept_available(role: str) -> None:
    deployment = _of("Deployment")[role]
    spec = deployment["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert container["args"] == ["run", role]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    if role == "gateway":
        assert container["readinessProbe"]["httpGet"]["path"] == "/health/ready"
        assert container["livenessProbe"]["httpGet"]["path"] == container["startupProbe"]["httpGet"]["path"] == "/health/live"
    else:
        assert container["readinessProbe"]["grpc"] == {"port": ports["grpc"]}
        assert (
            container["livenessProbe"]["grpc"] == container["startupProbe"]["grpc"] == {"port": ports["grpc"], "service": "live"}
        )
    delay = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    drain = int(_environment(container)["WIREROOM_DRAIN_TIMEOUT"])
    assert spec["terminationGracePeriodSeconds"] > delay + 2 * drain
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert _of("PodDisruptionBudget")[role]["spec"]["selector"]["matchLabels"].items() <= labels.items()
    service = _of("Service")[role]["spec"]
    assert service["clusterIP"] == "None"
    assert service["selector"].items() <= labels.items()
    assert {port["targetPort"] for port in service["ports"]} <= set(ports)
    single_writer = any("persistentVolumeClaim" in volume for volume in spec["volumes"])
    if single_writer:
        assert deployment["spec"]["replicas"] == 1
        assert deployment["spec"]["strategy"] == {"type": "Recreate"}
    else:
        assert deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
        assert deployment["spec"].get("replicas", 2) >= 2


def test_gateway_and_chat_scale_and_the_gateway_knows_by_how_much() -> None:
    scalers = _of("HorizontalPodAutoscaler")
    assert set(scalers) == {"gateway", "chat"}
    for name, scaler in scalers.items():
        assert scaler["spec"]["scaleTargetRef"]["name"] == name
        # A number here would be fought over by the autoscaler and whoever applies the manifests.
        assert "replicas" not in _of("Deployment")[name]["spec"]
    (gateway,) = _of("Deployment")["gateway"]["spec"]["template"]["spec"]["containers"]
    assert int(_environment(gateway)["WIREROOM_GATEWAY_KNOWN_REPLICAS"]) == scalers["gateway"]["spec"]["maxReplicas"]


@pytest.mark.parametrize("role", ROLES)
def test_environment_is_what_the_role_needs_and_no_more(role: str) -> None:
    (container,) = _of("Deployment")[role]["spec"]["template"]["spec"]["containers"]
    environment = _environment(container)
    known = {f"WIREROOM_{name.upper()}" for name in RuntimeSettings.model_fields}
    own = re.compile(r"WIREROOM_(GATEWAY|CHAT)_")
    assert [name for name in environment if name not in known and not own.match(name)] == []
    assert ("WIREROOM_DATABASE_URL" in environment) == ("WIREROOM_DATABASE_PASSWORD" in environment) == (role in SERVICES)
    with_redis = {"gateway", "chat", "news"}
    assert ("WIREROOM_REDIS_URL" in environment) == (role in with_redis)
    # Who is given the address may go there, and nobody else.
    assert _selects(_of("NetworkPolicy")["to-redis"]["spec"]["podSelector"], role) == (role in with_redis)
    assert ("WIREROOM_MASTER_SECRET_FILE" in environment) == (role in {"auth", "chat"})
    assert "WIREROOM_BUS_URL" in environment
    assert "WIREROOM_DATABASE_ADMIN_URL" not in environment
    for service in SERVICES:
        assert environment[f"WIREROOM_RPC_{service.upper()}_URL"] == f"grpc://{service}:50051"
    assert environment["WIREROOM_RPC_LISTEN"] == ("local:" if role == "gateway" else "grpc://0.0.0.0:50051")


@pytest.mark.parametrize("role", ROLES)
def test_role_holds_its_own_signing_key_only(role: str) -> None:
    volumes = _of("Deployment")[role]["spec"]["template"]["spec"]["volumes"]
    (keys,) = [volume["projected"]["sources"] for volume in volumes if "projected" in volume]
    assert [item["path"] for source in keys for item in source["secret"]["items"]] == [f"{role}.key", "trusted.json"]


def test_no_secret_value_stands_in_the_manifests_and_every_secret_is_described() -> None:
    assert not _of("Secret")
    referenced: set[str] = set()

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                if key in {"secretKeyRef", "secretRef"} or (key == "secret" and isinstance(value, dict)):
                    referenced.add(value.get("name") or value["secretName"])
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    walk(_objects())
    described = set(re.findall(r"`(wireroom-[a-z-]+)`", (K8S / "README.md").read_text()))
    by_role = {name for name in referenced if name.startswith("wireroom-principal-key-")}
    assert by_role == {f"wireroom-principal-key-{role}" for role in ROLES}
    assert referenced - by_role == described - {"wireroom-principal-key-"}
    for container in (container for pod in _workloads().values() for container in _containers(pod["spec"]["template"])):
        for entry in container["env"]:
            if re.search(r"PASSWORD|SECRET$|DATABASE_URL|BUS_URL|REDIS_URL|ADMIN_URL", entry["name"]):
                assert "secretKeyRef" in entry["valueFrom"]


def _selects(selector: dict[str, Any], role: str) -> bool:
    wanted = selector.get("matchLabels", {}).get("app.kubernetes.io/name", role)
    listed = [expression["values"] for expression in selector.get("matchExpressions", [])]
    return wanted == role and all(role in values for values in listed)


def test_everything_is_denied_but_the_stated_calls() -> None:
    policies = _of("NetworkPolicy")
    assert policies["default-deny"]["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    allowed_in: set[tuple[str, str]] = set()
    allowed_out: set[tuple[str, str]] = set()
    for policy in policies.values():
        spec = policy["spec"]
        for rule in spec.get("ingress", []):
            allowed_in |= {
                (caller, callee)
                for peer in rule.get("from", [])
                if "namespaceSelector" not in peer
                for caller in ROLES
                for callee in ROLES
                if _selects(peer["podSelector"], caller) and _selects(spec["podSelector"], callee)
            }
        for rule in spec.get("egress", []):
            allowed_out |= {
                (caller, callee)
                for peer in rule.get("to", [])
                if "podSelector" in peer and "namespaceSelector" not in peer
                for caller in ROLES
                for callee in ROLES
                if _selects(spec["podSelector"], caller) and _selects(peer["podSelector"], callee)
            }
    expected = {("gateway", service) for service in SERVICES} | {("chat", "rag"), ("rag", "news")}
    assert allowed_in == allowed_out == expected


def test_the_allowed_calls_are_those_the_code_makes() -> None:
    folders = {role: ROOT / ("gateway" if role == "gateway" else f"services/{role}") / "src" for role in ROLES}
    made = {
        (role, callee)
        for role, folder in folders.items()
        for path in folder.rglob("*.py")
        for callee in re.findall(r"infra\.channel\(\"(\w+)\"\)", path.read_text())
        if role != "gateway"
    }
    assert ("chat", "rag") in made
    assert made <= {("chat", "rag"), ("rag", "news")}


def test_only_news_and_chat_reach_the_internet_and_never_private_addresses() -> None:
    reaching: set[str] = set()
    for policy in _of("NetworkPolicy").values():
        for rule in policy["spec"].get("egress", []):
            blocks = [peer["ipBlock"] for peer in rule.get("to", []) if "ipBlock" in peer]
            if not blocks:
                continue
            reaching |= {role for role in ROLES if _selects(policy["spec"]["podSelector"], role)}
            closed = [ipaddress.ip_network(network) for block in blocks for network in block["except"]]
            for address in ("10.1.2.3", "127.0.0.1", "169.254.169.254", "172.16.0.1", "192.168.1.1", "::1", "fd00::1", "fe80::1"):
                ip = ipaddress.ip_address(address)
                assert any(ip in network for network in closed if network.version == ip.version), address
    assert reaching == {"news", "chat"}


def _component(name: str) -> dict[str, Any]:
    folder = K8S / "components" / name
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert kustomization["kind"] == "Component"
    assert kustomization["resources"] == [path.name for path in folder.iterdir() if path.name != "kustomization.yaml"]
    (policy,) = yaml.safe_load_all((folder / kustomization["resources"][0]).read_text())
    kubernetes_validate.validate(policy, VERSION, strict=True)
    assert policy["kind"] == "NetworkPolicy"
    return dict(policy)


@pytest.mark.parametrize(("name", "ports"), [("auth-mail", {465, 587}), ("auth-identity-providers", {443})])
def test_components_open_for_auth_what_the_base_keeps_closed(name: str, ports: set[int]) -> None:
    spec = _component(name)["spec"]
    assert [role for role in [*ROLES, "migrate"] if _selects(spec["podSelector"], role)] == ["auth"]
    assert spec["policyTypes"] == ["Egress"]
    (rule,) = spec["egress"]
    assert {port["port"] for port in rule["ports"]} == ports
    # The same public addresses as for feeds and providers.
    assert rule["to"] == _of("NetworkPolicy")["providers-on-the-internet"]["spec"]["egress"][0]["to"]
    assert name in (K8S / "README.md").read_text()


def test_every_component_is_shown_in_the_example_and_its_references_are_there() -> None:
    folder = K8S / "overlays" / "example"
    overlay = yaml.safe_load((folder / "kustomization.yaml").read_text())
    components = {path.name for path in (K8S / "components").iterdir()}
    assert {(folder / entry).resolve().name for entry in overlay["components"]} == components
    for entry in [*overlay["resources"], *overlay["components"]]:
        assert (folder / entry / "kustomization.yaml").is_file(), entry
    named = {(item["kind"], item["metadata"]["name"]) for item in [*_objects(), *map(_component, components)]}
    for patch in overlay["patches"]:
        assert (patch["target"]["kind"], patch["target"]["name"]) in named
    assert overlay["namespace"] == next(iter(_of("Namespace")))


def test_skaffold_builds_exactly_the_images_of_the_manifests() -> None:
    skaffold = yaml.safe_load((ROOT / "skaffold.yaml").read_text())
    assert skaffold["apiVersion"].startswith("skaffold/v4")
    images = {
        container["image"].partition(":")[0]
        for pod in _workloads().values()
        for container in _containers(pod["spec"]["template"])
    }
    artifacts = {artifact["image"]: artifact for artifact in skaffold["build"]["artifacts"]}
    assert set(artifacts) == images
    for image, artifact in artifacts.items():
        assert artifact["docker"]["buildArgs"] == {"PACKAGE": image.removeprefix("wireroom-")}
        assert (ROOT / artifact["context"] / artifact["docker"]["dockerfile"]).is_file()
    for path in skaffold["manifests"]["kustomize"]["paths"]:
        assert (ROOT / path / "kustomization.yaml").is_file()
    (hook,) = skaffold["deploy"]["kubectl"]["hooks"]["before"]
    assert set(_of("Job")) < set(hook["host"]["command"])


def test_what_the_dockerfile_copies_exists_and_is_not_ignored() -> None:
    dockerfile = (ROOT / "deploy/docker/Dockerfile").read_text()
    assert not dockerfile.startswith("# syntax")
    kept = {line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    sources = {source for line in re.findall(r"^COPY (?!--from)(.+)$", dockerfile, re.MULTILINE) for source in line.split()[:-1]}
    assert sources == kept
    assert [source for source in sorted(sources) if not (ROOT / source).exists()] == []
    user = re.search(r"^USER (\d+):(\d+)$", dockerfile, re.MULTILINE)
    assert user is not None
    assert {pod["spec"]["template"]["spec"]["securityContext"]["runAsUser"] for pod in _workloads().values()} == {int(user[1])}


def test_only_the_job_migrates() -> None:
    assert _of("ConfigMap")["wireroom"]["data"]["WIREROOM_MIGRATE_ON_START"] == "false"
    users = {
        name
        for name, workload in _workloads().items()
        for container in _containers(workload["spec"]["template"])
        if "WIREROOM_DATABASE_ADMIN_URL" in _environment(container)
    }
    assert users == {"wireroom-migrate"}
