"""From files and environment to Settings: all problems in one report, each with its position and the fix."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import pytest

from sidecar.config.load import Loaded, load
from sidecar.config.settings import Settings
from sidecar.errors import Misconfigured

FLAT = "authenticationConfiguration: {authority: 'https://a', "
LISTED = "authenticationConfiguration: {providers: [{name: a, issuer: 'https://a', "
CORP = "{name: corp, issuer: 'https://idp.example.com', audiences: [om]}"
ADMINS = (
    f"authenticationConfiguration: {{providers: [{CORP[:-1]}, mayBeAdmin: true}}]}}\n"
    "authorizerConfiguration: {adminPrincipals: "
)
MARK = "s3cr3t-mark"


@pytest.fixture(name="folder")
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load_text(text: str, environ: Mapping[str, str] | None = None) -> Loaded:
    Path("c.yaml").write_text(text, encoding="utf-8")
    return load(["c.yaml"], environ or {})


def problems(text: str, environ: Mapping[str, str] | None = None) -> list[str]:
    with pytest.raises(Misconfigured) as caught:
        load_text(text, environ)
    return [str(problem) for problem in caught.value.problems if problem.fatal]


def warnings(text: str, environ: Mapping[str, str] | None = None) -> str:
    return "\n".join(map(str, load_text(text, environ).warnings))


def test_no_file_is_the_defaults() -> None:
    """The sidecar starts without a configuration, and warns that every token is rejected."""
    loaded = load([], {})
    assert loaded.settings == Settings()
    assert loaded.providers == ()
    assert "every token is refused" in "\n".join(map(str, loaded.warnings))


@pytest.mark.parametrize("key", ["mayBeAdmin: true", "audiences: [om]"])
def test_a_setting_of_a_provider_in_the_block_is_refused_with_its_place(folder: Path, key: str) -> None:
    (problem,) = problems(f"authenticationConfiguration: {{{key}}}\n")
    assert "it belongs below each entry of authenticationConfiguration.providers" in problem


def test_later_files_win_key_by_key(folder: Path) -> None:
    """Mappings merge, lists and scalars are replaced, an empty section changes nothing."""
    text = "server: {realm: one, prefix: /auth}\nlogging: {level: debug}\nrules: [{path: /a}]\n"
    (folder / "a.yaml").write_text(text)
    (folder / "b.yaml").write_text("server: {realm: two}\nlogging:\nrules: [{path: /b}]\n")
    loaded = load(["a.yaml", "b.yaml"], {})
    server = loaded.settings.server
    assert (server.realm, server.prefix, loaded.settings.logging.level) == ("two", "/auth", "debug")
    assert [rule.path for rule in loaded.settings.rules] == ["/b"]
    assert loaded.sources["server.realm"] == "b.yaml:1"
    assert loaded.sources["server.prefix"] == "a.yaml:1"


def test_settings_are_frozen(folder: Path) -> None:
    """The configuration of a running program cannot be changed."""
    loaded = load([], {})
    with pytest.raises(dataclasses.FrozenInstanceError):
        loaded.settings = Settings()  # type: ignore[misc] # what is tried
    with pytest.raises(ValueError, match="frozen"):
        loaded.settings.server.workers = 2


def test_all_problems_come_in_one_report(folder: Path) -> None:
    """Syntax of values, unknown names, types, ranges and contradictions, sorted by line."""
    found = problems(
        "server:\n"
        "  listn: 1.2.3.4:1\n"
        "  workers: many\n"
        "  adminListen: 127.0.0.1:4180\n"
        "upstream: {url: ftp://x, credentials: pass}\n"
        "keys: {retryMin: 90s}\n"
        "authenticationConfiguration:\n"
        "  providers:\n"
        f"    - {CORP}\n"
        "    - {name: corp, issuer: 'http://idp.example.org', algorithms: [HS256], audiences: []}\n"
        "    - {name: other, issuer: 'https://idp.example.com', clockSkew: soon}\n"
        "adminPrincipals: [admin]\n"
    )
    expected = [
        "c.yaml:2: server.listn: is not a known name; did you mean listen?",
        "c.yaml:3: server.workers: must be a whole number",
        "c.yaml:4: server.adminListen: is the same address",
        "c.yaml:5: upstream.credentials: must be 'passthrough', 'none', 'openmetadata', 'datahub' or 'datahubHeader'",
        "c.yaml:5: upstream.url: must be http://host:port",
        "c.yaml:6: keys.retryMax: must not be less than retryMin",
        "c.yaml:10: authenticationConfiguration.providers[1].algorithms[0]: must be 'RS256'",
        "c.yaml:10: authenticationConfiguration.providers[1].issuer: is http on another host",
        "c.yaml:10: authenticationConfiguration.providers[1].name: is the name of providers[0] too",
        "c.yaml:11: authenticationConfiguration.providers[2].clockSkew: must be a duration",
        "c.yaml:11: authenticationConfiguration.providers[2].issuer: names the issuer of providers[0]",
        "c.yaml:12: adminPrincipals: is not a known name; it belongs below authorizerConfiguration",
    ]
    assert len(found) == len(expected), found
    for problem, start in zip(found, expected, strict=True):
        assert problem.startswith(start)


def test_no_problem_repeats_a_value(folder: Path) -> None:
    """A secret that slipped into the wrong place does not get out by an error."""
    text = (
        f"server: {{listen: {MARK}, trustedProxies: [{MARK}], workers: {MARK}, publicUrl: {MARK}, prefix: {MARK}}}\n"
        f"upstream: {{url: '{MARK}', credentials: {MARK}}}\n"
        f"store: {{url: '{MARK}', password: 'secret:{MARK}'}}\n"
        f"keys: {{timeout: {MARK}, maxBytes: {MARK}}}\n"
        f"tokens: {{requireRecord: {MARK}}}\n"
        f"rules: [{{path: {MARK}, access: {MARK}, methods: [{MARK}]}}]\n"
        f"identityHeaders: {{strip: ['{MARK} x']}}\n"
        "authenticationConfiguration:\n"
        f"  jwtPrincipalClaimsMapping: ['{MARK}']\n"
        f"  publicKeyUrls: ['{MARK}', {{url: '{MARK}', issuer: '{MARK}'}}]\n"
        f"  providers: [{{name: '{MARK} x', issuer: '{MARK}', actorType: {MARK}, groupsClaim: '\"{MARK}'}},"
        f" {{name: a, issuer: '{MARK}', actorType: {{claim: '{MARK}..', service: {MARK}}}}}]\n"
        f"authorizerConfiguration: {{allowedDomains: ['{MARK} x'], adminPrincipals: {MARK}}}\n"
        f"jwtTokenConfiguration: {{jwksPaths: ['{MARK}'], keyDir: ['{MARK}']}}\n"
        "logging: {level: ${L}}\n"
    )
    with pytest.raises(Misconfigured) as caught:
        load_text(text, {"L": f"{MARK}: x"})
    text = str(caught.value).replace(f"secret:{MARK}", "")
    assert len(caught.value.problems) > 20
    assert MARK not in text


def test_secrets_come_from_files_and_variables_and_print_nowhere(folder: Path) -> None:
    """Fields of type Secret take ``file:`` and ``env:``; ``secret:`` is refused, not read literally."""
    (folder / "pw").write_text(f"{MARK}\n")
    text = f"store: {{password: 'file:{folder}/pw', url: env:URL}}"
    loaded = load_text(text, {"URL": "sqlite:////tmp/x.db"})
    store = loaded.settings.store
    assert store.password
    assert (store.password.reveal(), store.url.reveal()) == (MARK, "sqlite:////tmp/x.db")
    assert MARK not in repr(loaded)
    (problem,) = problems("store: {password: 'secret:/om/x'}")
    assert problem == (
        "c.yaml:1: store.password: is in a secrets manager, but secretsManagerConfiguration.secretsManager is db, "
        "which names none; use azure-kv, managed-azure-kv, openbao, managed-openbao, kubernetes"
    )
    assert problems("store: {password: env:NONE}") == [
        "c.yaml:1: store.password: names the environment variable NONE, which is not set"
    ]


@pytest.mark.parametrize(
    "text",
    [
        "server: {realm: 'secret:/x'}",
        "authenticationConfiguration: {authority: 'https://a', clientId: env:X}",
        "jwtTokenConfiguration: {audience: 'file:/x'}",
        "authenticationConfiguration: {publicKeyUrls: [{url: 'https://a/k', issuer: 'file:/x'}]}",
        "secretsManagerConfiguration: {secretsManager: managed-azure-kv}",
    ],
)
def test_secret_references_are_never_taken_at_their_word(text: str, folder: Path) -> None:
    """Where nothing would look them up they are an error."""
    assert len(problems(text)) == 1


def test_key_sets_may_be_files(folder: Path) -> None:
    """There ``file:`` is no reference to a secret."""
    listed = "{name: a, issuer: 'https://a', audiences: [x], publicKeyUrls: ['file:/x']}"
    text = f"authenticationConfiguration: {{publicKeyUrls: [{{url: 'file:/y', issuer: i}}], providers: [{listed}]}}"
    assert [provider.key_urls for provider in load_text(text).providers] == [("file:/y",), ("file:/x",)]


def test_openmetadatas_own_secrets_are_not_kept(folder: Path) -> None:
    """Keys that only OpenMetadata uses are accepted, not looked at, and gone."""
    loaded = load_text(
        "authenticationConfiguration:\n"
        f"  oidcConfiguration: {{secret: {MARK}}}\n"
        "  samlConfiguration: {idp: {certificate: ${CERT}}}\n"
        f"secretsManagerConfiguration: {{secretsManager: db, parameters: {{secretAccessKey: {MARK}}}}}\n",
        {"CERT": "a: b\n- @c"},
    )
    assert MARK not in repr(loaded)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("jwtTokenConfiguration: {keyDir: /k, rsapublicKeyFilePath: /a, rsaprivateKeyFilePath: /b, jwtissuer: i}",
         "keyDir: excludes"),
        ("jwtTokenConfiguration: {rsapublicKeyFilePath: /a, jwtissuer: i}", "rsaprivateKeyFilePath: is missing"),
        ("jwtTokenConfiguration: {keyDir: /k}", "jwtissuer: is missing"),
        ("jwtTokenConfiguration: {keyDir: /k, jwtissuer: i, keyId: Gb389a-9f76-gdjs-a92j-0242bk94356}",
         "keyId: is OpenMetadata's published default"),
        ("upstream: {url: 'http://h', credentials: openmetadata}", "credentials: openmetadata needs an own RSA key"),
        ("upstream: {url: 'http://h/api?x'}", "upstream.url: must not hold a query"),
        ("upstream: {url: 'http://h/api#x'}", "upstream.url: must not hold a query"),
        ("upstream: {url: 'http://h/a/../b'}", "upstream.url: has a path that cannot be prepended"),
        ("upstream: {url: 'http://h/a//b'}", "upstream.url: has a path that cannot be prepended"),
        ("upstream: {url: 'http://h/a;b'}", "upstream.url: has a path that cannot be prepended"),
        ("upstream: {url: 'http://h/%61'}", "upstream.url: has a path that cannot be prepended"),
        ("rules: [{preset: datahub, basePath: /a/../b}]", "basePath: must be a path such as /metadata"),
        ("rules: [{path: /x, basePath: /a}]", "basePath stands beside a preset only"),
        ("upstream: {waitAtStart: 1m}", "upstream.waitAtStart: has no effect without upstream.url"),
        ("upstream: {url: 'http://h', waitAtStart: 0s}", "upstream.waitAtStart: must be more than 0s"),
        ("upstream: {url: 'http://h', serverBots: [a]}", "serverBots: has no effect with credentials: passthrough"),
        ("upstream: {credentials: datahub, serverBots: [a]}", "serverBots: has no effect with credentials: datahub"),
        ("upstream: {url: 'http://u:p@h'}", "upstream.url: must not hold a user name"),
        ("store: {url: 'mysql://h'}", "store.url: must be sqlite:////"),
        ("store: {url: 'redis://h', tls: {caFile: /ca}}", "store.tls: has no effect: store.url does not use TLS"),
        ("store: {url: 'rediss://h', tls: {certFile: /c}}", "store.tls: certFile and keyFile go together"),
        ("store: {url: 'sqlite:///relative'}", "store.url: must be sqlite:////"),
        ("server: {listen: '0.0.0.0:1', adminListen: '127.0.0.1:1'}", "adminListen: is the same address"),
        ("server: {listen: 'localhost:1', adminListen: '127.0.0.1:1'}", "adminListen: is the same address"),
        ("server: {checkDeadline: 0}", "checkDeadline: must be more than 0s"),
        ("rules: [{path: /a/**/b}]", "rules[0].path: has a misplaced wildcard"),
        ("rules: [{path: /a*}]", "rules[0].path: has a misplaced wildcard"),
        ("rules: [{path: /a/../b}]", "rules[0].path: must be a normalised path"),
        ("rules: [{path: //a}]", "rules[0].path: must be a normalised path"),
        ("rules: [{path: '/a?b'}]", "rules[0].path: must be a plain path"),
        ("rules: [{path: /a, methods: [get]}]", "rules[0].methods[0]: must be a method in capitals"),
        ("rules: [{path: /a, access: public, require: {admin: true}}]", "rules[0].require: has no effect"),
        ("rules: [{path: /a, require: {groups: ['*']}}]", "require.groups: has a wildcard"),
        ("authorizerConfiguration: {enforcePrincipalDomain: true}", "needs principalDomain or allowedDomains"),
        ("authorizerConfiguration: {allowedDomains: ['*.example.com']}", "allowedDomains[0]: must be one domain"),
        ("authorizerConfiguration: {adminPrincipals: 'admin'}", "adminPrincipals: must be a list"),
        (LISTED + "audiences: ['*']}]}", "wildcard"),
        (LISTED + "rolesClaim: 'a..b'}]}", "claim path"),
        (LISTED + "requiredClaims: {x: []}}]}",
         "accepts no value"),
        ("authenticationConfiguration: {providers: [{name: own, issuer: 'https://a'}]}", "is the name of the own"),
        (FLAT + "jwtPrincipalClaims: []}", "jwtPrincipalClaims: must not"),
        (FLAT + "jwtPrincipalClaimsMapping: ['username:u']}", "needs both"),
        (FLAT + "jwtPrincipalClaimsMapping: ['username:u', 'email:e', 'e:x']}",
         "must be username:<claim> or email:<claim>"),
        ("identityHeaders: {strip: ['X-*']}", "must be one header name"),
        ("server: {trustedProxies: [10.0.0.5/8]}", "write 10.0.0.0/8 for the network, or 10.0.0.5 for that address"),
        ("server: {publicUrl: example.com}", "publicUrl: must be an http or https URL"),
        ("server: []", "server: must be a block of keys and values"),
        ("upstream: {url: [a]}", "upstream.url: must be text"),
        ("import: {openmetadata: nowhere.yaml}", "import.openmetadata: cannot be read"),
    ],
)  # fmt: skip
def test_contradictions_are_refused(text: str, problem: str, folder: Path) -> None:
    """One fault, one problem, at its place."""
    found = problems(text)
    assert len(found) == 1
    assert problem in found[0]


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        (
            f"authenticationConfiguration: {{providers: [{CORP[:-1]}, allowMissingExpiry: true}}]}}",
            "tokens without exp",
        ),
        ("authenticationConfiguration: {providers: [{name: a, issuer: 'https://a'}]}", "no audience is required"),
        ("authenticationConfiguration: {authority: 'https://a'}", "set clientId"),
        ("authenticationConfiguration: {allowUnboundIssuers: true, publicKeyUrls: ['https://a/k']}", "many tenants"),
        ("allowPublishedSecrets: true", "do not use this in production"),
        ("server: {trustedProxies: [0.0.0.0/0]}", "trusts the whole network"),
        (ADMINS + "[root]}", "write corp/root to name one of that provider"),
        (
            ADMINS + "[sam@example.com], principalDomain: example.com}",
            "but Actor ids here are the part before the @; write sam",
        ),
        (ADMINS + "[anonymous], principalDomain: example.com}", "reserved: no caller can be it"),
        (ADMINS + "['the boss'], principalDomain: example.com}", "is not a valid Actor name"),
        ("rules: [{path: /**}, {path: /a}]", "rules[1]: is never reached"),
        ("rules: [{path: /oauth2/auth}]", "where rules do not apply"),
        ("rules: [{path: /a, require: {admin: true}}]", "is case-sensitive: /A gets access: authenticated"),
        ("server: {realm: 'a ${UNSET}'}", "UNSET is not set"),
    ],
)
def test_dangers_are_warnings(text: str, warning: str, folder: Path) -> None:
    """Each is explained in a warning."""
    assert warning in warnings(text)


@pytest.mark.parametrize(
    "text",
    [
        "corp/root]}",
        "root], principalDomain: example.com}",
        "root]}\njwtTokenConfiguration: {keyDir: /k, jwtissuer: i}",
    ],
)
def test_admins_that_a_caller_can_be_are_no_danger(text: str, folder: Path) -> None:
    said = warnings(f"{ADMINS}[{text}")
    assert "authorizerConfiguration.adminPrincipals" not in said


def test_published_secrets_can_be_allowed_for_a_demonstration(folder: Path) -> None:
    """Loudly."""
    text = "allowPublishedSecrets: true\njwtTokenConfiguration: {keyDir: /k, jwtissuer: i, keyId: "
    assert "do not use this in production" in warnings(text + "Gb389a-9f76-gdjs-a92j-0242bk94356}")


def test_two_ephemeral_ports_are_not_the_same(folder: Path) -> None:
    """Port 0 is any free one."""
    assert load_text("server: {listen: '127.0.0.1:0', adminListen: '127.0.0.1:0'}")


def test_a_key_without_value_counts_as_left_out(folder: Path) -> None:
    """As an empty variable does."""
    loaded = load_text(
        "server: {workers: , realm: '${R:-x}'}\nupstream:\nauthorizerConfiguration: {adminPrincipals: ~}\n"
    )
    assert (loaded.settings.server.workers, loaded.settings.upstream) == (1, None)


def test_several_broken_files_are_all_named(folder: Path) -> None:
    """A file that cannot be read hides no other's problems."""
    (folder / "a.yaml").write_text("a: [\n")
    (folder / "b.yaml").write_text("b: 1\n")
    with pytest.raises(Misconfigured) as caught:
        load(["a.yaml", "b.yaml", "none.yaml"], {})
    assert {problem.file for problem in caught.value.problems if problem.fatal} == {"a.yaml", "b.yaml", "none.yaml"}


def test_a_file_that_cannot_be_read_is_not_judged_by_what_is_missing(folder: Path) -> None:
    """A tab in the file does not cause the warning that no issuer is configured."""
    (folder / "a.yaml").write_text("authenticationConfiguration:\n\tproviders: []\n")
    with pytest.raises(Misconfigured) as caught:
        load(["a.yaml"], {})
    assert [problem.line for problem in caught.value.problems] == [2]


@pytest.mark.parametrize("product", ["openmetadata", "datahub"])
def test_neither_is_one_whose_import_cannot_be_read(product: str, folder: Path) -> None:
    (folder / "a.yaml").write_text(f"import: {{{product}: none.yaml}}\n")
    with pytest.raises(Misconfigured) as caught:
        load(["a.yaml"], {})
    assert [problem.file for problem in caught.value.problems] == ["none.yaml"]


def test_a_faulty_value_is_one_problem(folder: Path) -> None:
    """A rule whose path is wrong does not lack one besides."""
    (folder / "a.yaml").write_text("rules: [{path: api}]\n")
    with pytest.raises(Misconfigured) as caught:
        load(["a.yaml"], {})
    (problem,) = (problem for problem in caught.value.problems if problem.fatal)
    assert problem.path == "rules[0].path"
    assert problem.message.startswith("must be a path that begins with /")


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("rules: [{path: /x/**, require: {providers: [corq]}}]", "rules[0].require.providers[0]"),
        (
            "authorizerConfiguration: {adminPrincipals: [admin, corq/alice]}",
            "authorizerConfiguration.adminPrincipals[1]",
        ),
    ],
)
def test_unknown_provider_names_are_reported(text: str, place: str, folder: Path) -> None:
    """What a rule asks for and no caller can have is a slip of the pen."""
    provider = "authenticationConfiguration: {providers: [{name: corp, issuer: 'https://i.example', audiences: [a]}]}\n"
    told = [warning for warning in load_text(provider + text).warnings if warning.path == place]
    assert [warning.message for warning in told] == ["no provider or authenticator is named corq; did you mean corp?"]
    assert not [w for w in load_text(provider + text.replace("corq", "corp")).warnings if w.path == place]


def test_check_mode_needs_no_upstream(folder: Path) -> None:
    """Neither upstream nor proxies: the configuration is incomplete."""
    assert "no upstream is configured" in warnings("server: {realm: x}")
    assert "no upstream" not in warnings("server: {trustedProxies: [127.0.0.1/32]}")
    assert "no upstream" not in warnings("upstream: {url: 'http://127.0.0.1:1'}")


def test_the_budget_of_all_headers_holds_that_of_the_identity_headers(folder: Path) -> None:
    """Absent, it grows with that one, so that a file that raised ``maxBytes`` alone stays sound."""
    (problem,) = problems("identityHeaders: {maxBytes: 4KiB, maxTotalBytes: 4095}\n")
    assert "identityHeaders.maxTotalBytes: is 4095 bytes, less than identityHeaders.maxBytes (4096)" in problem
    assert Settings().identity_headers.total_bytes == 8192
    assert load_text("identityHeaders: {maxBytes: 16KiB}\n").settings.identity_headers.total_bytes == 21 * 1024
    small = "identityHeaders: {maxBytes: 1KiB, maxTotalBytes: 1KiB, assertion: true}\n"
    assert "identityHeaders.maxTotalBytes: is 1024 bytes, and headers with an assertion" in warnings(small)
    assert "maxTotalBytes" not in warnings(small.replace("true", "false"))


@pytest.mark.parametrize("name", ["", " a", "a\\n"])
def test_a_name_of_the_servers_bots_is_a_name(name: str, folder: Path) -> None:
    """One that no server shows would guard nothing."""
    found = problems(f'upstream: {{credentials: openmetadata, serverBots: ["{name}"]}}')
    assert any("upstream.serverBots[0]: must be the name of a bot" in problem for problem in found)


def test_an_unlisted_default_admin_of_the_server_is_a_warning(folder: Path) -> None:
    keys = "jwtTokenConfiguration: {keyDir: /keys, jwtissuer: me}\n"
    written = keys + "upstream: {url: 'http://h', credentials: openmetadata}\n"
    assert "does not list admin, an OpenMetadata server's default admin" in warnings(written)
    named = written + "authorizerConfiguration: {adminPrincipals: [Admin]}\n"
    assert "default admin" not in warnings(named)
