"""tls: certificates: read, checked, chosen by name, and read again while connections go on.

Room: floor 3. Called by: server.py and supervisor.py (Certificates), run.py (to try them). Calls: config.py, errors.py. The
data plane is handed a Certificates and asks it for `context` at each handshake.
Rules: RFC 6066 section 3 (server name indication), RFC 6125 section 6.4 (which certificate a name means), RFC 5280 section
4.1 (where a certificate has its names and its end), RFC 7301 (ALPN: http/1.1), RFC 8446 section 4.6.1 (tickets) and 4.1.1
(a cipher suite out of those of both sides).

A context is never changed: one that could not be finished would leave nothing to serve with. New files make a new one,
which takes the old one's place when it is whole; connections keep what they have. Under a supervisor only the supervisor
reads: it may be root while its workers are not, and what it has made before the fork they share, with the keys of the
session tickets in it. After a change it tells them, and each makes its own.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import ssl
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from fastserve.errors import ConfigError
from fastserve.process.config import Config

__all__ = ["WATCH_SECONDS", "Certificates"]

logger = logging.getLogger("fastserve")

WATCH_SECONDS = 2.0  # between two looks at the files
FILE_BYTES_MAX = 1 << 20
SOON = 14 * 86400.0  # seconds before its end that a certificate is warned of
NO_LIMIT = 365 * 86400.0  # the loops know no timeout without an end
SUBJECT_ALT_NAME = bytes.fromhex("0603551d11")  # object identifiers, as they are encoded
COMMON_NAME = bytes.fromhex("0603550403")
CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
REQUIREMENTS = {
    "none": ssl.CERT_NONE,
    "0": ssl.CERT_NONE,
    "optional": ssl.CERT_OPTIONAL,
    "1": ssl.CERT_OPTIONAL,
    "required": ssl.CERT_REQUIRED,
    "2": ssl.CERT_REQUIRED,
}
VERSIONS = {"tls1.2": ssl.TLSVersion.TLSv1_2, "tls1.3": ssl.TLSVersion.TLSv1_3}

Pair = tuple[str, str]  # certificates, key: PEM


class Certificates:
    """The contexts of a Config with `ssl_certfile`, the first of which is everybody's default.

    `context`: for the next handshake. ConfigError, in one line, if a file cannot be used.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self.handshake_timeout = config.timeout_tls_handshake or NO_LIMIT
        self.shutdown_timeout = NO_LIMIT  # the loops count from the close, also while a slow client takes what was sent
        keys = config.ssl_keyfile or config.ssl_certfile
        self._files = list(zip(config.ssl_certfile, keys, strict=True))
        self._authorities = _read(config.ssl_ca_certs, "ssl-ca-certs") if config.ssl_ca_certs is not None else None
        self._seen = self._marks()
        self._use([(_read(cert, "ssl-certfile"), _read(key, "ssl-keyfile")) for cert, key in self._files])

    def changed(self) -> bool:
        """Do the files look other than when they were read last?"""
        return self._marks() != self._seen

    def reread(self) -> bool:
        """Read the files again. False: they cannot be used, which was logged, and what there was stays."""
        self._seen = self._marks()
        try:
            self._use([(_read(cert, "ssl-certfile"), _read(key, "ssl-keyfile")) for cert, key in self._files])
        except ConfigError as error:
            logger.error("the certificates cannot be used, the old ones stay: %s", error)
            return False
        logger.info("certificates were read again: %s", self)
        return True

    @property
    def facts(self) -> list[tuple[list[str], datetime | None]]:
        """Of each certificate: the names it is for, and until when."""
        return list(self._facts)

    def as_json(self) -> list[list[str]]:
        """What adopt() takes, in another process."""
        return [list(pair) for pair in self._pairs]

    def adopt(self, pairs: Sequence[Sequence[str]]) -> None:
        """Use what somebody else has read."""
        try:
            self._use([(cert, key) for cert, key in pairs])
        except ConfigError as error:
            logger.error("the certificates cannot be used, the old ones stay: %s", error)

    def __str__(self) -> str:
        found = []
        for names, until in self._facts:
            end = f", until {until:%Y-%m-%d}" if until is not None else ""
            found.append(f"{' '.join(names) or 'a certificate without a name'}{end}")
        return "; ".join(found)

    def _marks(self) -> list[tuple[int, int, int] | None]:
        found: list[tuple[int, int, int] | None] = []
        for path in {path: None for pair in self._files for path in pair}:
            try:
                about = os.stat(path)
                found.append((about.st_ino, about.st_mtime_ns, about.st_size))
            except OSError:
                found.append(None)
        return found

    def _use(self, pairs: list[Pair]) -> None:
        contexts = [self._made(index, *pair) for index, pair in enumerate(pairs)]
        facts = [_facts(cert) for cert, _ in pairs]
        by_name: dict[str, ssl.SSLContext] = {}
        for context, (names, _) in zip(contexts, facts, strict=True):
            for name in names:
                by_name.setdefault(name, context)
        self._pairs, self._facts, self._by_name, self.context = pairs, facts, by_name, contexts[0]
        for names, until in facts:
            left = until.timestamp() - time.time() if until is not None else SOON
            if left < SOON:
                logger.warning(
                    "the certificate of %s %s on %s",
                    " ".join(names),
                    "ended" if left < 0 else "ends",
                    f"{until:%Y-%m-%d}",
                )

    def _made(self, index: int, cert: str, key: str) -> ssl.SSLContext:
        config = self._config
        cert_path, key_path = self._files[index]
        if CERTIFICATE.search(cert) is None:
            raise ConfigError(f"ssl-certfile: there is no certificate in {cert_path} (it should be PEM)", exit_code=3)
        if "PRIVATE KEY-----" not in key:
            hint = "" if config.ssl_keyfile else ": give --ssl-keyfile"
            raise ConfigError(f"ssl-keyfile: there is no private key in {key_path}{hint}", exit_code=3)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = VERSIONS[config.ssl_protocol_min]
        if config.ssl_version == int(ssl.PROTOCOL_TLSv1_2):
            context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION  # a client could make us work with every few bytes of it
        context.num_tickets = 1  # after a full handshake; OpenSSL would send two, and after a resumed one it sends one
        if config.ssl_ciphers is None:  # all that we have are strong, and a client knows what its processor is good at
            context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
        context.set_alpn_protocols(["http/1.1"])
        context.sni_callback = self._choose
        if config.ssl_ciphers is not None:
            try:
                context.set_ciphers(config.ssl_ciphers)
            except ssl.SSLError:
                raise ConfigError(
                    f"ssl-ciphers: OpenSSL knows no cipher of {config.ssl_ciphers!r}", exit_code=3
                ) from None
        if self._authorities is not None:
            try:
                context.load_verify_locations(cadata=self._authorities)
            except (ssl.SSLError, ValueError):
                raise ConfigError(f"ssl-ca-certs: no certificates in {config.ssl_ca_certs}", exit_code=3) from None
        context.verify_mode = REQUIREMENTS[config.ssl_cert_reqs]

        def password() -> str:
            if config.ssl_keyfile_password is None:
                raise ConfigError(f"ssl-keyfile: {key_path} is encrypted: give --ssl-keyfile-password", exit_code=3)
            return config.ssl_keyfile_password

        with _as_file(cert) as certfile, _as_file(key) as keyfile:
            try:
                context.load_cert_chain(certfile, keyfile, password)
            except ssl.SSLError as error:
                if error.reason == "KEY_VALUES_MISMATCH":
                    text = f"ssl-keyfile: {key_path} is not the key of {cert_path}"
                elif "ENCRYPTED" in key and config.ssl_keyfile_password is not None:
                    text = f"ssl-keyfile-password: it does not open {key_path}"
                else:
                    text = f"ssl-certfile: {cert_path} and {key_path} cannot be used ({error.reason or error})"
                raise ConfigError(text, exit_code=3) from None
        return context

    def _choose(self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        """The certificate for the name that a client asks for; an unknown name gets the first, as under nginx."""
        chosen = self.context
        if name is not None:
            name = name.lower().rstrip(".")
            found = self._by_name.get(name) or self._by_name.get("*." + name.partition(".")[2])
            chosen = found or chosen
        if chosen is not context:
            connection.context = chosen


def _read(path: str, option: str) -> str:
    try:
        with open(path, "rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"{option}: cannot read {path}: {error.strerror}", exit_code=3) from None
    if len(data) > FILE_BYTES_MAX:
        raise ConfigError(f"{option}: {path} has more than {FILE_BYTES_MAX} bytes", exit_code=3)
    return data.decode("latin-1")


@contextlib.contextmanager
def _as_file(text: str) -> Iterator[str]:
    """OpenSSL, as Python offers it, takes names of files. What was read once must not be read from the disk again."""
    data = text.encode("latin-1")
    if hasattr(os, "memfd_create") and os.path.exists("/proc/self/fd"):
        descriptor = os.memfd_create("fastserve-tls", os.MFD_CLOEXEC)
        try:
            os.write(descriptor, data)
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)
        return
    with tempfile.NamedTemporaryFile() as file:  # mode 600
        file.write(data)
        file.flush()
        yield file.name


# ---------------------------------------------------------------------------------------- what a certificate says


def _facts(pem: str) -> tuple[list[str], datetime | None]:
    """The names that the first certificate is for, in lower case, and its end. Nothing, if it is put together oddly."""
    match = CERTIFICATE.search(pem)
    with contextlib.suppress(IndexError, ValueError):
        der = ssl.PEM_cert_to_DER_cert(match[0] if match is not None else "")
        fields = _members(der, *_member(der, _member(der, 0)[1])[1:])  # of the TBSCertificate (RFC 5280 section 4.1)
        if fields[0][0] == 0xA0:  # the version
            del fields[0]
        _, _, _, validity, subject = fields[:5]
        until = _moment(der, _members(der, *validity[1:])[1])
        names = [name for tag, *span in fields if tag == 0xA3 for name in _alternative_names(der[slice(*span)])]
        return names or _common_name(der[slice(*subject[1:])]), until
    return [], None


def _member(data: bytes, at: int) -> tuple[int, int, int]:
    """Tag, begin and end of the content of what stands there (X.690: DER)."""
    length, begin = data[at + 1], at + 2
    if length & 0x80:
        size = length & 0x7F
        length, begin = int.from_bytes(data[begin : begin + size], "big"), begin + size
    return data[at], begin, begin + length


def _members(data: bytes, begin: int, end: int) -> list[tuple[int, int, int]]:
    found = []
    while begin < end:
        found.append(_member(data, begin))
        begin = found[-1][2]
    return found


def _moment(der: bytes, member: tuple[int, int, int]) -> datetime:
    text = der[member[1] : member[2]].decode("ascii")
    if member[0] == 0x17:  # UTCTime (RFC 5280 section 4.1.2.5.1)
        text = ("19" if int(text[:2]) >= 50 else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


def _alternative_names(extensions: bytes) -> list[str]:
    at = extensions.find(SUBJECT_ALT_NAME)
    if at < 0:
        return []
    at += len(SUBJECT_ALT_NAME)
    tag, begin, end = _member(extensions, at)
    if tag == 0x01:  # critical
        tag, begin, end = _member(extensions, end)
    names = _members(extensions, *_member(extensions, begin)[1:])
    return [extensions[b:e].decode("ascii").lower() for kind, b, e in names if kind == 0x82]  # dNSName


def _common_name(subject: bytes) -> list[str]:
    at = subject.find(COMMON_NAME)
    if at < 0:
        return []
    _, begin, end = _member(subject, at + len(COMMON_NAME))
    return [subject[begin:end].decode("utf-8").lower()]
