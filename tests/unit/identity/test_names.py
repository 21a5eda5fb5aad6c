"""Which texts may name an Actor, and under which spelling two names are one."""

import sys

import pytest

from sidecar.errors import Cause, Reason, Refused
from sidecar.identity.actor import Actor, ActorType
from sidecar.identity.names import folded, local_part, parse_address, parse_name


@pytest.mark.parametrize(
    ("text", "local", "domain"),
    [
        ("Jane.Doe@Example.org", "jane.doe", "example.org"),
        ("jane+news@example.org", "jane+news", "example.org"),
        ("o'brien@corp.local", "o'brien", "corp.local"),
        ("jane_gmail.com#EXT#@tenant.onmicrosoft.com", "jane_gmail.com#ext#", "tenant.onmicrosoft.com"),
        ("j\u00fcrgen@corp.test", "j\u00fcrgen", "corp.test"),
        ("\u592a\u90ce@corp.test", "\u592a\u90ce", "corp.test"),
        ("root@localhost", "root", "localhost"),
        ("jane@xn--bcher-kva.example", "jane", "xn--bcher-kva.example"),
        ("jane@my_corp.local", "jane", "my_corp.local"),
        ("J\u00fcrgen", "j\u00fcrgen", ""),
        ("Wei\u00df", "wei\u00df", ""),
        ("CORP\\jdoe", "corp\\jdoe", ""),
        ("uid=jgr,ou=people,dc=example,dc=pt", "uid=jgr,ou=people,dc=example,dc=pt", ""),
        ("system:serviceaccount:data:ingest", "system:serviceaccount:data:ingest", ""),
    ],
)
def test_names_and_plain_addresses(text: str, local: str, domain: str) -> None:
    name = parse_name(text)
    assert (name.text, name.local, name.domain) == (text, local, domain)


@pytest.mark.parametrize(
    "text",
    [
        "(x)admin@corp.test",
        "admin(x)@corp.test",
        "admin@corp.test(x)",
        "admin@(x)corp.test",
        '"admin"@corp.test',
        '"a@b"@corp.test',
        "Admin <admin@corp.test>",
        "<admin@corp.test>",
        "admin @corp.test",
        "admin@ corp.test",
        "admin@corp.test ",
        "admin\t@corp.test",
        "admin@corp.test.",
        "admin@.corp.test",
        "admin@corp..test",
        ".admin@corp.test",
        "admin.@corp.test",
        "ad..min@corp.test",
        "admin%corp.test@relay.test",
        "corp.test!admin@relay.test",
        "@relay.test:admin@corp.test",
        "admin@corp.test@relay.test",
        "admin@[192.0.2.1]",
        "admin@-corp.test",
        "admin@corp-.test",
        "admin@corp.test:25",
        "admin@corp.test/x",
        "admin@corp.test,root@corp.test",
        "admin;root@corp.test",
        "admin\\root@corp.test",
        "mailto:admin@corp.test",
        "admin@c\u043erp.test",
        "admin@corp\u3002test",
        "admin@corp.te\u00dft",
        "admin\uff20corp.test",
        "admin\ufe6bcorp.test",
        "root\uff20corp.test@corp.test",
        "corp\uff0fadmin",
        "\uff41dmin@corp.test",
        "admi\u207f@corp.test",
        "@corp.test",
        "admin@",
        "@",
        f"admin@{'a' * 64}.test",
        f"admin@{'a.' * 130}test",
    ],
)
def test_what_is_no_plain_address_names_no_actor(text: str) -> None:
    """Programs disagree about whose address it is: the part that one of them reads is another person's name."""
    with pytest.raises(Refused) as refusal:
        parse_name(text)
    assert (refusal.value.reason, refusal.value.cause) == (Reason.PRINCIPAL_INVALID, Cause.PRINCIPAL_MALFORMED)
    assert "admin" not in refusal.value.detail
    assert parse_address(text) == ""


def test_no_character_outside_ascii_passes_for_one_of_ascii_by_case() -> None:
    """In a name and in an address, in any place. The sharp s is spelled with two letters in capitals, and stays."""
    for number in range(128, sys.maxunicode + 1):
        character = chr(number)
        if character in "\u00df\u1e9e" or not character.isprintable():
            continue
        forms = (character.lower(), character.upper(), character.casefold(), character.title())
        # the lower case of the dotted capital I is an i with a combining dot
        if character == "\u0130" or any(map(str.isascii, forms)):
            for text in (f"a{character}b", f"a{character}b@corp.test"):
                with pytest.raises(Refused):
                    parse_name(text)


def test_ids_compare_in_lower_case_but_for_a_providers_name() -> None:
    assert folded("Jane@Corp.com") == "jane@corp.com"
    assert folded("Corp/Jane@Corp.com") == "Corp/jane@corp.com"
    assert local_part("Corp/Jane@Corp.com") == "Corp/jane"
    assert local_part("Jane") == "jane"


@pytest.mark.parametrize(
    ("actor_id", "email", "in_token", "own"),
    [
        ("jane", "jane@corp.test", True, "jane@corp.test"),
        ("corp/jane", "jane@corp.test", True, "jane@corp.test"),
        ("Jane@Corp.test", "jane@corp.test", True, "jane@corp.test"),
        ("jane", "doe@corp.test", True, ""),
        ("jane", "jane@corp.test", False, ""),
    ],
)
def test_an_actors_own_address_is_that_of_the_very_name(actor_id: str, email: str, in_token: bool, own: str) -> None:
    assert Actor(ActorType.USER, actor_id, email=email, email_in_token=in_token).own_address == own
