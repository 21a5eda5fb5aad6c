"""A real Kubernetes node on this machine: containerd, kubelet and kube-proxy, with a control plane and its controllers.

It lives in namespaces of its own and ends with them: the machine's network, mounts and kernel settings do not change.
Pods have no DNS. There is one node, and images come from an archive.
"""

import ctypes
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from joserfc.jwk import RSAKey

from tests.support.http_client import answers
from tests.support.kubernetes import ApiServer, api_server, etcd
from tests.support.process import Process, running

NODE = "node"
ADDRESS = "192.168.77.1"
PODS = "10.244.0.0/24"
_CLONE_NEWNET = 0x40000000
_HEALTH = {"kubelet": 10248, "kube-proxy": 10256}
_START = 180.0
_PREPARE = r"""
set -eu
folder="$1"
mount --make-rprivate /
# Controllers of the machine, seen from this process' own cgroup as the root.
controllers="$(awk '$3 == "cgroup" {print $2 ":" $4}' "$folder/cgroups")"
generic='^(rw|ro|relatime|nosuid|nodev|noexec|xattr|release_agent=.*)$'
mount -t sysfs sysfs /sys
if [ -n "$controllers" ]; then
  mount -t tmpfs tmpfs /sys/fs/cgroup
  for one in $controllers; do
    at="${one%%:*}"; mkdir -p "$at"
    options="$(echo "${one#*:}" | tr , '\n' | grep -v -E "$generic" | paste -sd ,)"
    mount -t cgroup -o "$options" cgroup "$at"
  done
else
  mount -t cgroup2 cgroup2 /sys/fs/cgroup
fi
# kubelet writes these; the machine's stay as they are.
for name in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops kernel/keys/root_maxkeys \
  kernel/keys/root_maxbytes; do
  if [ -e "/proc/sys/$name" ]; then
    copy="$folder/sysctl/$name"
    mkdir -p "$(dirname "$copy")"
    cat "/proc/sys/$name" > "$copy"
    mount --bind "$copy" "/proc/sys/$name"
  fi
done
mount -t tmpfs tmpfs /run
for name in /var/lib/containerd /var/lib/kubelet /var/lib/cni /var/log/pods /var/log/containers /etc/cni /opt/cni; do
  mkdir -p "$name" "$folder/root$name"; mount --bind "$folder/root$name" "$name"
done
mount --make-rshared /
mkdir -p /etc/cni/net.d; cp "$folder/bridge.conflist" /etc/cni/net.d/
hostname node
ip link set lo up
ip link add node0 type bridge
ip address add "$2/24" dev node0
ip link set node0 up
ip route add default dev node0 # so that addresses of Services have a route before they are replaced
echo 1 > /proc/sys/net/ipv4/ip_forward
echo ready > "$folder/ready"
exec sleep infinity
"""
_CONTAINERD = """
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "registry.k8s.io/pause:3.10"
restrict_oom_score_adj = true
disable_apparmor = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "/etc/cni/net.d"
"""
_BRIDGE = {
    "cniVersion": "1.0.0",
    "name": "pods",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": True,
            "ipMasq": False,
            "hairpinMode": True,
            "ipam": {"type": "host-local", "ranges": [[{"subnet": PODS}]], "routes": [{"dst": "0.0.0.0/0"}]},
        }
    ],
}
_KUBELET = {
    "apiVersion": "kubelet.config.k8s.io/v1beta1",
    "kind": "KubeletConfiguration",
    "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
    "authorization": {"mode": "AlwaysAllow"},
    "address": "127.0.0.1",
    "cgroupDriver": "cgroupfs",
    "cgroupsPerQOS": False,
    "enforceNodeAllocatable": [],
    "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
    "failSwapOn": False,
    "failCgroupV1": False,
    "localStorageCapacityIsolation": False,
    "evictionHard": {"memory.available": "1Mi"},
    "imageGCHighThresholdPercent": 100,
    "resolvConf": "",
}
_PROXY = {
    "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
    "kind": "KubeProxyConfiguration",
    "mode": "iptables",
    "clusterCIDR": PODS,
    "conntrack": {"maxPerCore": 0},
}


@dataclass(frozen=True, slots=True)
class Node:
    """A node that is ready. ``inside`` is the start of a command that runs in its namespaces."""

    server: ApiServer
    inside: tuple[str, ...]
    folder: Path

    def volume(self, name: str) -> dict[str, Any]:
        """A persistent volume, whose owner kubelet sets as a pod's ``fsGroup`` says."""
        path = f"/var/lib/kubelet/{name}"
        (self.folder / f"root{path}").mkdir()
        here = {"key": "kubernetes.io/hostname", "operator": "In", "values": [NODE]}
        spec = {
            "capacity": {"storage": "5Gi"},
            "accessModes": ["ReadWriteOnce"],
            "local": {"path": path},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}},
        }
        return {"metadata": {"name": name}, "spec": spec}


@contextmanager
def node(programs: Path, folder: Path, images: Path) -> Iterator[Node]:
    """A cluster of one node until the block ends. Until then this thread and the programs it starts use its network.

    ``images``: an archive of ``podman save`` with all images that pods name, and ``registry.k8s.io/pause:3.10``.
    """
    with ExitStack() as stack:
        inside = stack.enter_context(_namespaces(folder))
        store = stack.enter_context(etcd(programs / "etcd", folder))
        server = stack.enter_context(
            api_server(programs / "kube-apiserver", folder, store, [RSAKey.generate_key(2048)])
        )
        kubeconfig = server.write_kubeconfig(folder / "kubeconfig")
        _start_controllers(stack, programs, folder, kubeconfig, server)
        containerd = _start(
            stack, folder, "containerd", [*inside, "containerd", "--config", folder / "containerd.toml"]
        )
        socket = "/run/containerd/containerd.sock"
        ctr = (*inside, "ctr", "--address", socket, "--namespace", "k8s.io")
        containerd.wait_until(lambda: _succeeds(*ctr, "version"), within=_START, what="containerd answers")
        subprocess.run([*ctr, "images", "import", str(images)], check=True, stdout=subprocess.DEVNULL, timeout=_START)
        kubelet = [*inside, programs / "kubelet", "--config", folder / "kubelet.yaml", "--kubeconfig", kubeconfig]
        kubelet += ["--hostname-override", NODE, "--node-ip", ADDRESS]
        proxy = [*inside, programs / "kube-proxy", "--config", folder / "proxy.yaml", "--hostname-override", NODE]
        first = _start(stack, folder, "kubelet", kubelet)
        first.wait_until(lambda: _is_ready(server), within=_START, what="the node is ready")
        second = _start(stack, folder, "kube-proxy", proxy)
        port = _HEALTH["kube-proxy"]
        second.wait_until(lambda: answers(f"http://127.0.0.1:{port}/livez"), within=_START, what="kube-proxy answers")
        yield Node(server, inside, folder)


@contextmanager
def _namespaces(folder: Path) -> Iterator[tuple[str, ...]]:
    """New namespaces, prepared; the start of commands in them. This thread joins their network."""
    files = {
        "cgroups": Path("/proc/self/mounts").read_text(encoding="utf-8"),
        "prepare.sh": _PREPARE,
        "containerd.toml": _CONTAINERD,
        "bridge.conflist": json.dumps(_BRIDGE),
        "kubelet.yaml": yaml.safe_dump(_KUBELET),
        "proxy.yaml": yaml.safe_dump({**_PROXY, "clientConnection": {"kubeconfig": str(folder / "kubeconfig")}}),
    }
    for name, text in files.items():
        if name == "cgroups":  # as the script reads them: where, type, options
            lines = [line.split() for line in text.splitlines()]
            text = "".join(f"x {at} {kind} {options}\n" for _, at, kind, options, *_ in lines)
        (folder / name).write_text(text, encoding="utf-8")
    unshare = ["unshare", "--fork", "--kill-child", "--mount-proc", "--net", "--mount", "--pid", "--ipc", "--uts"]
    command = [*unshare, "--cgroup", "sh", folder / "prepare.sh", folder, ADDRESS]
    ready = folder / "ready"
    with (
        _cgroups_removed(),
        running(command, log=folder / "namespaces.log", ready=ready.exists) as holder,
    ):
        children = Path(f"/proc/{holder.popen.pid}/task/{holder.popen.pid}/children")
        child = children.read_text(encoding="ascii").split()[0]
        with _network_of(child):
            yield ("nsenter", "--target", child, "--mount", "--pid", "--ipc", "--uts", "--cgroup", "--net", "--")


@contextmanager
def _cgroups_removed() -> Iterator[None]:
    """Remove what containerd leaves of its cgroups, which are empty once the namespaces have ended."""
    try:
        yield
    finally:
        for folder in Path("/sys/fs/cgroup").glob("*/k8s.io"):
            for below, _, _ in os.walk(folder, topdown=False):
                with suppress(OSError):  # not empty: another's
                    Path(below).rmdir()


@contextmanager
def _network_of(process: str) -> Iterator[None]:
    """This thread, and the processes that it starts, in the network of a process."""
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    other = os.open(f"/proc/{process}/ns/net", os.O_RDONLY)
    try:
        _enter(other)
        try:
            yield
        finally:
            _enter(own)
    finally:
        os.close(other)
        os.close(own)


def _enter(namespace: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(namespace, _CLONE_NEWNET):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def _start_controllers(stack: ExitStack, programs: Path, folder: Path, kubeconfig: Path, server: ApiServer) -> None:
    common: list[object] = ["--kubeconfig", kubeconfig, "--leader-elect=false"]
    signing = ["--service-account-private-key-file", folder / "signing.pem", "--root-ca-file", server.ca_file]
    _start(stack, folder, "kube-controller-manager", [programs / "kube-controller-manager", *common, *signing])
    _start(stack, folder, "kube-scheduler", [programs / "kube-scheduler", *common])


def _start(stack: ExitStack, folder: Path, name: str, command: list[object]) -> Process:
    """A program that ends with the stack; it may not be ready yet."""
    return stack.enter_context(running(command, log=folder / f"{name}.log", ready=lambda: True))


def _succeeds(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, timeout=20, check=False).returncode == 0


def _is_ready(server: ApiServer) -> bool:
    reply = server.ask("GET", f"/api/v1/nodes/{NODE}")
    conditions = reply.json()["status"].get("conditions", ()) if reply.status == 200 else ()
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
