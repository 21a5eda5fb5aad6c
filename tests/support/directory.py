"""A real slapd with a few people and groups, reachable by ldap, StartTLS and ldaps."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.certificates import certificate
from tests.support.ports import answers_on, free_port
from tests.support.process import Process, running

BASE = "dc=example,dc=com"
ADMIN, ADMIN_PASSWORD = f"cn=admin,{BASE}", "adm1n"
_CONFIG = """
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
modulepath /usr/lib/ldap
moduleload back_mdb
pidfile {folder}/slapd.pid
TLSCACertificateFile {folder}/cert.pem
TLSCertificateFile {folder}/cert.pem
TLSCertificateKeyFile {folder}/key.pem
disallow bind_anon
database mdb
suffix "{base}"
rootdn "{admin}"
rootpw {password}
directory {folder}/db
access to attrs=userPassword by anonymous auth by * none
access to * by dn.exact="{admin}" read by * none
"""
_ENTRIES = """
dn: {base}
objectClass: dcObject
objectClass: organization
o: example
dc: example

dn: ou=people,{base}
objectClass: organizationalUnit
ou: people

dn: ou=groups,{base}
objectClass: organizationalUnit
ou: groups

dn: uid=Alice,ou=people,{base}
objectClass: inetOrgPerson
uid: Alice
cn: Alice (Ops) *
sn: A
mail: alice@example.com
userPassword: opensesame

dn: cn=Bob\\2C the (builder)\\\\,ou=people,{base}
objectClass: inetOrgPerson
uid: bob
cn: Bob, the (builder)\\
sn: twin
userPassword: hunter2

dn: uid=guest,ou=people,{base}
objectClass: inetOrgPerson
uid: guest
cn: guest
sn: twin
userPassword: g

dn: cn=editors,ou=groups,{base}
objectClass: groupOfNames
cn: editors
member: uid=Alice,ou=people,{base}
member: cn=Bob\\2C the (builder)\\\\,ou=people,{base}

dn: cn=admins,ou=groups,{base}
objectClass: groupOfNames
cn: admins
member: uid=Alice,ou=people,{base}
"""


@dataclass(frozen=True, slots=True)
class SlapdDirectory:
    """A directory with its files in ``folder``; it may be started and stopped again and again."""

    slapd: Path
    folder: Path
    port: int
    tls_port: int

    @property
    def url(self) -> str:
        """For StartTLS, or none."""
        return f"ldap://127.0.0.1:{self.port}"

    @property
    def tls_url(self) -> str:
        """For TLS from the beginning."""
        return f"ldaps://127.0.0.1:{self.tls_port}"

    @property
    def ca_file(self) -> Path:
        """Who vouches for its certificate."""
        return self.folder / "cert.pem"

    @contextmanager
    def running(self) -> Iterator[Process]:
        """Up as long as the block lasts."""
        with running(
            [self.slapd, "-h", f"{self.url}/ {self.tls_url}/", "-f", self.folder / "slapd.conf", "-d", "0"],
            log=self.folder / "slapd.log",
            ready=lambda: answers_on(self.port) and answers_on(self.tls_port),
        ) as process:
            yield process


def prepared_slapd(slapd: Path, folder: Path) -> SlapdDirectory:
    """A directory on free ports, not started."""
    (folder / "db").mkdir()
    cert, key = certificate()
    (folder / "cert.pem").write_bytes(cert)
    (folder / "key.pem").write_bytes(key)
    config, entries = folder / "slapd.conf", folder / "entries.ldif"
    config.write_text(_CONFIG.format(folder=folder, base=BASE, admin=ADMIN, password=ADMIN_PASSWORD))
    entries.write_text(_ENTRIES.format(base=BASE))
    added = subprocess.run(
        [slapd.with_name("slapadd"), "-f", config, "-l", entries], capture_output=True, text=True, check=False
    )
    assert added.returncode == 0, added.stderr
    return SlapdDirectory(slapd, folder, free_port(), free_port())
