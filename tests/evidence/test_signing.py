"""Signatures against the specifications and against the reference package."""

from __future__ import annotations

import base64
import json
import stat

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from fivefold.errors import StoreError, TamperedError
from fivefold.evidence import Signer, Store, sign, sign_statement, verify, verify_envelope
from fivefold.evidence.signing import IN_TOTO, pae, public_pem, read_public_keys, statement


@pytest.fixture
def signer() -> Signer:
    return Signer(Ed25519PrivateKey.generate())


def pem_of(key, encryption=None) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())


def test_pae_is_that_of_the_dsse_specification():
    assert (
        pae("http://example.com/HelloWorld", b"hello world")
        == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )
    assert pae("é", b"") == b"DSSEv1 2 \xc3\xa9 0 ", "lengths count bytes"


def test_a_signed_payload_comes_back(signer):
    envelope = json.loads(json.dumps(sign("text/plain", b"payload", signer)))
    assert verify_envelope(envelope, signer.public_key) == b"payload"
    assert base64.b64decode(envelope["payload"]) == b"payload"
    assert envelope["signatures"][0]["keyid"] == signer.keyid
    signer.public_key.verify(base64.b64decode(envelope["signatures"][0]["sig"]), pae("text/plain", b"payload"))


@pytest.mark.parametrize(
    "field, value", [("payload", base64.b64encode(b"other").decode()), ("payloadType", "text/html")]
)
def test_payload_and_type_are_both_signed(signer, field, value):
    envelope = {**sign("text/plain", b"payload", signer), field: value}
    with pytest.raises(TamperedError, match="does not match"):
        verify_envelope(envelope, signer.public_key)


def test_a_strangers_signature_is_refused_whatever_keyid_it_names(signer):
    envelope = sign("text/plain", b"payload", Signer(Ed25519PrivateKey.generate()))
    envelope["signatures"][0]["keyid"] = signer.keyid
    with pytest.raises(TamperedError):
        verify_envelope(envelope, signer.public_key)
    with pytest.raises(TamperedError):
        verify_envelope(envelope)


def test_the_type_asked_for_must_be_the_type_signed(signer):
    with pytest.raises(TamperedError, match="something else"):
        verify_envelope(sign("text/plain", b"x", signer), signer.public_key, payload_type=IN_TOTO)


def test_one_of_several_signatures_is_enough(signer):
    other = Signer(Ed25519PrivateKey.generate())
    envelope = sign("t", b"x", other)
    envelope["signatures"] += sign("t", b"x", signer)["signatures"]
    assert verify_envelope(envelope, signer.public_key) == b"x"


@pytest.mark.parametrize(
    "envelope", [{}, {"payload": "eA==", "payloadType": "t"}, {"payload": "?", "payloadType": "t", "signatures": []}]
)
def test_what_is_no_envelope_is_said_to_be_none(signer, envelope):
    with pytest.raises(TamperedError, match="not a DSSE envelope"):
        verify_envelope(envelope, signer.public_key)


def test_statements_satisfy_the_reference_package(signer):
    reference = pytest.importorskip("in_toto_attestation.v1.statement")
    from google.protobuf.json_format import Parse

    envelope = sign_statement({"decision/5": "a" * 64}, "urn:fivefold:record:v1", {"decision": "block"}, signer)
    payload = verify_envelope(envelope, signer.public_key, payload_type=IN_TOTO)
    parsed = Parse(payload, reference.Statement([], "", {}).pb)
    reference.Statement.copy_from_pb(parsed).validate()
    assert parsed.subject[0].digest["sha256"] == "a" * 64 and parsed.predicate_type == "urn:fivefold:record:v1"


@pytest.mark.parametrize("arguments", [({}, "t", {"a": 1}), ({"n": "d"}, "", {"a": 1}), ({"n": "d"}, "t", {})])
def test_a_statement_needs_all_its_parts(arguments):
    with pytest.raises(StoreError, match="needs a subject"):
        statement(*arguments)


def test_a_signed_record_holds_an_envelope_about_itself(store):
    record = store.append("decision", {"decision": "ship"}, run="r", signed=True)
    payload = json.loads(verify_envelope(store.envelope(record.id), store.signer.public_key))
    assert payload["_type"] == "https://in-toto.io/Statement/v1"
    assert payload["subject"] == [{"name": f"decision/{record.seq}", "digest": {"sha256": record.hash}}]
    assert payload["predicate"]["body"] == {"decision": "ship"}
    about = store.append("decision", {"subject": "f" * 64, "subject_name": "patched"}, signed=True)
    payload = json.loads(verify_envelope(store.envelope(about.id), store.signer.public_key))
    assert payload["subject"][1] == {"name": "model/patched", "digest": {"sha256": "f" * 64}}
    assert verify(store).ok
    assert store.envelope(store.append("note", {}).id) is None


def test_the_key_is_made_once(home):
    with Store.open(home) as a:
        keyid = a.signer.keyid
    with Store.open(home) as b:
        assert b.signer.keyid == keyid and len(b.records("key")) == 1
    public = read_public_keys([(home / "keys" / "signing.pub.pem").read_text()])
    assert public_pem(public[0]) == public_pem(b.signer.public_key)


def test_a_key_of_ones_own_by_path_and_by_value(monkeypatch, tmp_path):
    key = Ed25519PrivateKey.generate()
    (tmp_path / "key.pem").write_bytes(pem_of(key))
    (tmp_path / "key.pem").chmod(0o600)
    for value in (str(tmp_path / "key.pem"), pem_of(key).decode()):
        monkeypatch.setenv("FIVEFOLD_SIGNING_KEY", value)
        with Store.open(tmp_path / "home") as store:
            assert store.signer.keyid == Signer(key).keyid
    assert not (tmp_path / "home" / "keys").exists()


def test_a_changed_key_is_introduced_and_old_signatures_still_hold(monkeypatch, home):
    with Store.open(home) as store:
        store.append("decision", {"n": 1}, signed=True)
    monkeypatch.setenv("FIVEFOLD_SIGNING_KEY", pem_of(Ed25519PrivateKey.generate()).decode())
    with Store.open(home) as store:
        store.append("decision", {"n": 2}, signed=True)
        assert len(store.records("key")) == 2 and verify(store).ok


def test_a_key_that_others_can_read_is_refused(home):
    Store.open(home).close()
    (home / "keys" / "signing.pem").chmod(0o644)
    with pytest.raises(StoreError, match="can be read by others") as caught:
        Store.open(home)
    assert "chmod 600" in str(caught.value)


@pytest.mark.parametrize(
    "pem, match",
    [
        (b"-----BEGIN nothing", "no usable private key"),
        (pem_of(Ed25519PrivateKey.generate(), BestAvailableEncryption(b"pw")), "no usable private key"),
        (pem_of(ec.generate_private_key(ec.SECP256R1())), "another kind of key"),
        (pem_of(rsa.generate_private_key(65537, 2048)), "another kind of key"),
    ],
)
def test_keys_that_cannot_be_used(monkeypatch, home, pem, match):
    monkeypatch.setenv("FIVEFOLD_SIGNING_KEY", pem.decode())
    with pytest.raises(StoreError, match=match) as caught:
        Store.open(home)
    assert "BEGIN" not in str(caught.value), "a key is never shown"


def test_a_key_file_that_is_not_there(monkeypatch, home):
    monkeypatch.setenv("FIVEFOLD_SIGNING_KEY", "/nowhere/key.pem")
    with pytest.raises(StoreError, match="cannot be read"):
        Store.open(home)


def test_the_private_key_is_private_from_its_first_moment(home):
    Store.open(home).close()
    for path in (home / "keys").iterdir():
        if path.name == "signing.pem":
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert {p.name for p in (home / "keys").iterdir()} == {"signing.pem", "signing.pub.pem"}
