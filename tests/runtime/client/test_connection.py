"""Addresses and what goes with them: credentials are sent and never shown, files are checked first."""

from __future__ import annotations

import pytest

from icgan_runtime.client.connection import Address, ConnectionOptions, options_from_environment
from icgan_runtime.errors import RequestError


def test_user_and_password_become_a_header_and_are_shown_nowhere():
    address = Address.parse("https://me%40home:s%2Fcret@gateway:8443/icgan")
    assert address.host == "gateway:8443/icgan"
    assert address.authorization == "Basic bWVAaG9tZTpzL2NyZXQ="  # me@home:s/cret
    assert "cret" not in repr(address)
    assert address.url == "https://gateway:8443/icgan"
    assert ConnectionOptions().sent(address) == {"authorization": address.authorization}


def test_an_address_that_is_refused_shows_no_password():
    with pytest.raises(RequestError) as caught:
        Address.parse("ftp://me:secret@gateway:1")
    assert "secret" not in str(caught.value)


def test_a_header_of_ones_own_goes_before_the_addresss_user():
    address = Address.parse("grpc://me:secret@gateway:8001")
    options = ConnectionOptions(headers={"Authorization": "Bearer token"})
    assert options.sent(address) == {"authorization": "Bearer token"}
    assert "token" not in repr(options)


@pytest.mark.parametrize(
    ("url", "loopback"),
    [
        ("grpc://localhost:1", True),
        ("grpc://127.3.2.1:1", True),
        ("grpc://[::1]:1", True),
        ("http://icgan.localhost:1", True),
        ("grpc://10.0.0.1:1", False),
        ("grpc://localhost.example:1", False),
    ],
)
def test_this_machine_is_told_from_others(url, loopback):
    assert Address.parse(url).is_loopback is loopback


@pytest.mark.parametrize(
    ("url", "options", "complaint"),
    [
        ("grpc://a:1", {"headers": {"a b": "c"}}, "headers: 'a b', expected a header's name"),
        ("grpc://a:1", {"headers": {"a": "b\r\nc: d"}}, "headers: 'a', .*a value of one line"),
        ("http://a:1", {"headers": {"a": "é"}}, "headers: 'a', .*in ASCII"),
        ("grpc://a:1", {"headers": {"a": "b\x01"}}, "headers: 'a', .*in ASCII"),
        ("grpc://a:1", {"headers": {"a": 5}}, "headers: 'a', .*in ASCII"),
        ("http://a:1", {"headers": {"Content-Length": "5"}}, "headers: 'Content-Length' is not for users"),
        ("grpc://a:1", {"headers": {"x-bin": "5"}}, "headers: 'x-bin' is not for users"),
        ("grpcs://a:1", {"ca": __file__}, "ca: .* is no PEM file of certificates"),
        ("https://a:1", {"certificate": __file__, "key": __file__}, "certificate: .* are no PEM certificate"),
        ("grpc://a:1", {"ca": "x"}, "ca: grpc://a:1 is not encrypted: use grpcs:// or https://"),
        ("grpcs://a:1", {"ca": "absent.pem"}, "ca: absent.pem cannot be read"),
        ("https://a:1", {"certificate": __file__}, "certificate: a certificate and its key go together"),
        ("grpc://a:1", {"prepare": "nobody"}, "prepare: 'nobody', expected one of client, server"),
        ("grpc://a:1", {"balancing": "fair"}, "balancing: 'fair', expected one of pick_first, round_robin"),
        ("http://a:1", {"balancing": "round_robin"}, "balancing: http://a:1 is no gRPC address"),
    ],
)
def test_what_an_address_does_not_take_is_refused_before_anything_is_sent(url, options, complaint):
    with pytest.raises(RequestError, match=complaint):
        ConnectionOptions(**options).check(Address.parse(url))


def test_the_command_lines_credentials_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("ICGAN_HEADERS", "Authorization: Bearer a:b\nX-Tenant: 7\n")
    monkeypatch.setenv("ICGAN_CA", "ca.pem")
    headers = {"Authorization": "Bearer a:b", "X-Tenant": "7"}
    assert options_from_environment() == {"headers": headers, "ca": "ca.pem"}
    monkeypatch.setenv("ICGAN_HEADERS", "a token alone")
    with pytest.raises(RequestError, match="ICGAN_HEADERS: expected lines of the form Name: value"):
        options_from_environment()


@pytest.mark.parametrize("url", ["grpc://a:1/path", "grpcs://a:1/path", "http://a:1?x=1", "https://a:1/#x"])
def test_what_an_address_cannot_hold_is_refused(url):
    with pytest.raises(RequestError, match="expected one of grpc://"):
        Address.parse(url)
