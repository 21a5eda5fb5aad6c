"""Images and containers by podman, in a store of the test's own that is gone with its folder.

No registry is asked: the base is a Debian with Python made on this machine. Containers share the host's network, so
that the loopback servers of the tests are theirs too.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_BUILD_SECONDS = 400.0
_SECONDS = 90.0
# What podman would ask of a resource limit or of systemd is not given on every machine; neither matters here.
_RUN = (
    *("--network", "host", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"),
    *("--cap-drop", "all", "--security-opt", "no-new-privileges", "--read-only", "--read-only-tmpfs=false"),
)
# The machine's own trust: whatever it reaches the package index by.
_TRUST = "/etc/ssl/certs"


@dataclass(frozen=True, slots=True)
class Containers:
    """Podman with a store below ``folder``."""

    podman: Path
    folder: Path

    def call(self, *arguments: str | Path, within: float = _SECONDS) -> subprocess.CompletedProcess[str]:
        """Run podman with ``arguments`` to its end, whatever that is."""
        command = [
            *(self.podman, "--root", self.folder / "store", "--runroot", self.folder / "run"),
            *("--runtime", "runc", "--cgroup-manager", "cgroupfs", "--events-backend", "none"),
            *arguments,
        ]
        return subprocess.run(
            [str(part) for part in command],
            env={**os.environ, "BUILDAH_ISOLATION": "chroot"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=within,
            check=False,
        )

    def must(self, *arguments: str | Path, within: float = _SECONDS) -> str:
        """The same, but it has to succeed; its standard output."""
        done = self.call(*arguments, within=within)
        assert done.returncode == 0, f"podman {arguments[0]}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
        return done.stdout.strip()

    def build(self, context: Path, base: Path, tag: str) -> None:
        """The image ``tag`` of ``context``'s Dockerfile, on the root filesystem in the archive ``base``."""
        self.must("import", base, "localhost/python-base", within=_BUILD_SECONDS)
        self.must(
            *("build", "--format", "docker", "--network", "host", "--volume", f"{_TRUST}:{_TRUST}:ro"),
            *("--build-arg", "PYTHON_IMAGE=localhost/python-base", "--tag", tag, context),
            within=_BUILD_SECONDS,
        )

    def save_as(self, archive: Path, image: str, names: Sequence[str], packages: Sequence[str]) -> None:
        """``archive`` with ``image``, and under each of ``names`` one with Debian's ``packages`` added, which waits."""
        install = f"apt-get update -q && apt-get install -y -q --no-install-recommends {' '.join(packages)}"
        lines = [f"FROM {image}", "USER 0:0", f"RUN {install}", "ENTRYPOINT []", 'CMD ["sleep", "infinity"]']
        context = archive.parent / "context"
        context.mkdir()
        (context / "Dockerfile").write_text("\n".join([*lines, "USER 65532:65532", ""]), encoding="utf-8")
        trusts = [f"{folder}:{folder}:ro" for folder in (_TRUST, "/etc/apt")]
        volumes = [word for one in trusts for word in ("--volume", one)]
        tags = [word for name in names for word in ("--tag", name)]
        self.must("build", "--format", "docker", "--network", "host", *volumes, *tags, context, within=_BUILD_SECONDS)
        save = ("save", "--format", "docker-archive", "--multi-image-archive", "--output", str(archive))
        self.must(*save, image, *names, within=_BUILD_SECONDS)

    def run(self, image: str, *arguments: str, mounts: Mapping[Path, str]) -> subprocess.CompletedProcess[str]:
        """``image`` with ``arguments``, to its end. ``mounts`` are read-only: path here to path there."""
        return self.call("run", "--rm", *_RUN, *_volumes(mounts), image, *arguments)

    @contextmanager
    def running(self, image: str, name: str, *, mounts: Mapping[Path, str]) -> Iterator[None]:
        """``image`` with its own command as long as the block lasts."""
        self.must("run", "--detach", "--name", name, *_RUN, *_volumes(mounts), image)
        try:
            yield
        finally:
            self.call("rm", "--force", "--volumes", "--time", "5", name)

    def remove_all(self) -> None:
        """Unmount and delete the store."""
        self.call("system", "reset", "--force")
        shutil.rmtree(self.folder, ignore_errors=True)


def _volumes(mounts: Mapping[Path, str]) -> Sequence[str]:
    return [f"--volume={here}:{there}:ro" for here, there in mounts.items()]
