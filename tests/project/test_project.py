"""Settings, README, Dockerfile, pins and recipes agree with the code."""

from __future__ import annotations

import json
import os
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import simile
from simile.cli import main
from simile.core.errors import BadSetting
from simile.core.settings import Settings, load_settings

ROOT = Path(__file__).resolve().parents[2]
COMMANDS: dict[str, Any] = {name: main.load_command(name) for name in main.COMMANDS}


def text(path: str) -> str:
    return (ROOT / path).read_text()


def pyproject() -> dict[str, Any]:
    return tomllib.loads(text("pyproject.toml"))


# Pins


def pins() -> dict[str, str]:
    lines = (line.split("#")[0].strip() for line in text("constraints.txt").splitlines())
    named = (line.partition("==") for line in lines if line)
    return {canonicalize_name(name): version for name, _, version in named}


def test_every_pin_is_exact() -> None:
    assert {name for name, version in pins().items() if not re.fullmatch(r"[\w.+]+", version)} == set()
    assert {"torch", "torchvision"} <= pins().keys()


def test_every_dependency_is_pinned_within_its_own_bounds() -> None:
    project = pyproject()["project"]
    for line in [*project["dependencies"], *project["optional-dependencies"]["dev"]]:
        required = Requirement(line)
        pinned = pins().get(canonicalize_name(required.name))
        assert pinned is not None and required.specifier.contains(pinned), f"{line}, pinned to {pinned}"


# Settings


def documented_settings() -> dict[str, tuple[str, str, str]]:
    """By the variable's name: default, what it takes, help."""
    rows = re.findall(r"^\| `(SIMILE_\w+)` \| (.*?) \| (.*?) \| (.*?) \|$", text("docs/settings.md"), re.MULTILINE)
    assert len(rows) == len({row[0] for row in rows})
    return {name: (default, takes, sentence) for name, default, takes, sentence in rows}


def test_every_setting_is_documented_with_its_default_and_help_and_nothing_else_is() -> None:
    expected = {
        f"SIMILE_{name.upper()}": ("none" if field.default is None else f"`{field.default}`", field.description)
        for name, field in Settings.model_fields.items()
    }
    assert {name: (default, help) for name, (default, _, help) in documented_settings().items()} == expected
    assert list(documented_settings()) == list(expected), "the table keeps the order of core/settings.py"


@pytest.mark.parametrize("name", ["workers", "batch_size", "port"])
def test_documented_bounds_are_taken_and_one_beyond_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    variable = f"SIMILE_{name.upper()}"
    low, high = map(int, re.findall(r"^(\d+) to (\d+)", documented_settings()[variable][1])[0])
    for value in (low, high):
        monkeypatch.setenv(variable, str(value))
        assert getattr(load_settings(), name) == value
    for value in (low - 1, high + 1):
        monkeypatch.setenv(variable, str(value))
        with pytest.raises(BadSetting, match=variable):
            load_settings()


@pytest.mark.parametrize(
    "path",
    [
        "README.md",
        "Dockerfile",
        "compose.yaml",
        "docs/settings.md",
        "docs/security.md",
        "alembic.ini",
        "CONTRIBUTING.md",
    ],
)
def test_every_variable_that_is_named_is_a_setting(path: str) -> None:
    named = set(re.findall(r"\bSIMILE_[A-Z_]+\b", text(path)))
    assert named <= {f"SIMILE_{name.upper()}" for name in Settings.model_fields}


# README, CI, changelog


@pytest.mark.parametrize("command", COMMANDS)
def test_readme_mentions_every_command(command: str) -> None:
    assert re.search(rf"simile {command}\b", text("README.md"))


@pytest.mark.parametrize("command", COMMANDS)
def test_the_list_of_commands_has_the_help_of_each(command: str) -> None:
    assert main.COMMANDS[command][1] == COMMANDS[command].help.split("\n\n")[0].replace("\n", " ")


def test_readme_shows_no_command_and_no_option_that_is_not_there() -> None:
    below = [command for group in COMMANDS.values() for command in getattr(group, "commands", {}).values()]
    parameters = [parameter for command in [*COMMANDS.values(), *below] for parameter in command.params]
    options = {option for parameter in parameters for option in (*parameter.opts, *parameter.secondary_opts)}
    blocks = re.findall(r"```sh\n(.*?)```", text("README.md"), re.DOTALL)
    spans = re.findall(r"`simile .*", text("README.md"))
    lines = [line for line in [*"".join(blocks).splitlines(), *spans] if line.lstrip("`").startswith("simile ")]
    assert {command for line in lines for command in re.findall(r"(?:^|`)simile ([a-z]+)", line)} <= COMMANDS.keys()
    assert {option for line in lines for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", line)} <= options


def test_readme_shows_only_names_that_the_python_api_has() -> None:
    code = "\n".join(re.findall(r"```python\n(.*?)```", text("README.md"), re.DOTALL))
    names = set(re.findall(r"\bsimile\.(\w+)", code))
    assert names and names <= set(simile.__all__)


def test_readme_leads_to_files_that_are_there() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", text("README.md"))
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_readme_and_ci_use_the_same_commands() -> None:
    ci = [line.strip() for line in text(".ci/run").splitlines()]
    assert "make test" in ci and "make check" in ci
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    targets = set(re.findall(r"^([a-z]+):", text("Makefile"), re.MULTILINE))
    assert {"demo", "test"} <= set(re.findall(r"^make ([a-z]+)", text("README.md"), re.MULTILINE)) <= targets


def test_the_changelog_has_this_version() -> None:
    version = pyproject()["project"]["version"]
    assert re.search(rf"^## {re.escape(version)}\b", text("CHANGELOG.md"), re.MULTILINE)


# Dockerfile


def instructions() -> list[tuple[str, str]]:
    """Each instruction with what follows it; comments left out, continued lines joined."""
    lines = [line for line in text("Dockerfile").splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ").splitlines()
    return [(word.upper(), rest.strip()) for word, _, rest in (line.partition(" ") for line in joined if line.strip())]


def of(word: str) -> list[str]:
    return [rest for found, rest in instructions() if found == word]


def copied() -> list[str]:
    """The sources of every COPY."""
    return [name for rest in of("COPY") for name in rest.split()[:-1] if not name.startswith("--")]


def test_the_image_gets_files_that_exist_and_are_not_ignored() -> None:
    assert [name for name in copied() if not (ROOT / name).exists()] == []
    assert set(copied()).isdisjoint(text(".dockerignore").split())


def test_the_image_gets_the_source_links_and_every_folder_that_they_lead_to() -> None:
    targets = {tuple(rest.split()) for rest in of("COPY")}
    linked = {path.name for path in (ROOT / "src" / "simile").iterdir() if path.is_symlink()}
    assert {("src", "src")} | {(name, name) for name in linked} <= targets


def test_the_image_installs_dependencies_before_code_so_that_code_changes_stay_cheap() -> None:
    steps = instructions()
    install = next(at for at, (word, rest) in enumerate(steps) if word == "RUN" and "-r requirements.txt" in rest)
    before = {name for word, rest in steps[:install] if word == "COPY" for name in rest.split()[:-1]}
    assert before == {"pyproject.toml", "constraints.txt"}
    assert "-c constraints.txt" in steps[install][1]
    assert any(word == "RUN" and "--no-deps ." in rest for word, rest in steps[install:])


def test_the_image_takes_an_extra_index_for_torch() -> None:
    assert 'TORCH_INDEX=""' in of("ARG")
    assert any("--extra-index-url" in rest and "$TORCH_INDEX" in rest for rest in of("RUN"))
    assert "--extra-index-url $(TORCH_INDEX)" in text("Makefile")


def test_the_image_runs_as_a_user_of_its_own_that_owns_the_data() -> None:
    user = of("USER")[-1]
    assert user not in ("root", "0")
    made = next(rest for rest in of("RUN") if "useradd" in rest)
    assert f"chown {user} /data" in made and made.split("&&")[0].split()[-1] == user
    words = [word for word, _ in instructions()]
    assert words.index("USER") < words.index("VOLUME"), "what is done to a volume after VOLUME is lost"
    assert of("VOLUME") == ["/data"]
    assert "SIMILE_HOME=/data" in of("ENV")[0].split()


def test_the_image_runs_a_command_that_exists_and_looks_after_it() -> None:
    program, command = json.loads(of("CMD")[0])
    assert program in pyproject()["project"]["scripts"] and command in COMMANDS
    port = of("EXPOSE")[0]
    assert f"SIMILE_PORT={port}" in of("ENV")[0].split()
    assert f":{port}/livez" in of("HEALTHCHECK")[0]


def test_the_health_check_asks_no_shell_and_no_proxy() -> None:
    command = of("HEALTHCHECK")[0].partition("CMD ")[2]
    program, flag, code = json.loads(command)
    assert (program, flag) == ("python", "-c") and "ProxyHandler({})" in code
    compile(code, "the health check", "exec")


def test_compose_publishes_on_loopback_only_and_lets_the_container_do_little() -> None:
    yaml = pytest.importorskip("yaml", reason="pre-commit brings it")
    found = yaml.safe_load(text("compose.yaml"))
    service = found["services"]["simile"]
    port = of("EXPOSE")[0]
    assert service["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert service["read_only"] is True and service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert [place.partition(":")[0] for place in service["tmpfs"]] == ["/tmp"]
    assert service["volumes"][0] == f"simile:{of('VOLUME')[0]}" and "simile" in found["volumes"]
    assert all(place.endswith(":ro") for place in service["volumes"][1:])
    assert not {"privileged", "network_mode", "user", "cap_add", "devices"} & service.keys()
    known = {f"SIMILE_{name.upper()}" for name in Settings.model_fields}
    assert set(service["environment"]) <= known and "SIMILE_INSECURE" not in service["environment"]


# Recipes


@pytest.mark.parametrize("path", sorted((ROOT / "models" / "recipes").glob("*.toml")), ids=lambda path: path.stem)
def test_every_value_of_a_recipe_has_its_reason_beside_it(path: Path) -> None:
    lines = path.read_text().splitlines()
    bare = [line.split("=")[0].strip() for line in lines if re.match(r"\w+\s*=", line) and "#" not in line]
    assert bare == []
