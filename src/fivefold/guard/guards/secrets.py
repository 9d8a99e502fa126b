"""Secrets and exfiltration in answers: named secrets, words that a system prompt calls secret, keys, links that carry
data.

A secret counts as leaked however it is written: in other case, spelled with dashes, backwards, in base64 or
hexadecimal. Keys are recognised by form and, where the form has one, by checksum. Images and links are where injected
text sends data to: an answer that makes a browser fetch a foreign address with data in it leaks without a click.
"""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias
from urllib.parse import unquote, urlsplit

from fivefold.guard.normalise import View, views
from fivefold.types import Exchange, Stage, Taxonomy, Verdict, digest

Reaction: TypeAlias = Literal["redact", "block"]
MARK = "[redacted]"
MIN_SECRET = 5
"""Letters and digits that a secret must have (two fewer outside ASCII); shorter ones occur by chance."""
LEAKED_WORDS = 12
"""A run of this many words (or three times as many characters without spaces) of the system prompt is a leak of it."""

_SECRET_SENTENCE = re.compile(
    r"secret|password|passphrase|confidential|private|never|must not|may not|(?:do not|don.t) "
    r"(?:say|reveal|tell|share|give|mention|write|show|pass)|\bkeep\b.{0,40}\byourself\b|\bonly\b|\bkey\b|\bword\b"
    r"|비밀|암호|지 마|안 됩|에게만|에만|단어|秘密|パスワード|合言葉|ないで|てはいけ|ては困|だけに|言葉",
    re.I,
)
_SHAPED = re.compile(r"[^\W_]+(?:-[^\W_]+)+|[^\W_]*\d[^\W_]*[^\W\d_][^\W_]*|[^\W_]*[^\W\d_][^\W_]*\d[^\W_]*")
_BEFORE = re.compile(r"^.*[はがの은는이가](?=[^-]+-)")
_AFTER = re.compile(r"(?:입니다|이며|이고|이라|은|는|이|가|을|를|だけ|です|であり|で|は|が|を|と)$")
_LINK = re.compile(r"(!?)\[([^\]]{0,300})\]\(\s*<?(https?://[^\s)>]+)|(https?://[^\s)\]>\"']+)")

READY = True
"""It needs no artifact and no model."""

TAXONOMY = Taxonomy(
    surface="system prompt",
    technique="leak of secrets",
    owasp=("LLM02:2025", "LLM07:2025"),
    atlas=("AML.T0057", "AML.T0056", "AML.T0077"),
)
"""What it stands against, in the words of the public catalogues."""


class SecretsGuard:
    """Looks at answers. `redact` takes out what leaks; `block` refuses the whole answer."""

    name = "secrets"
    stages: frozenset[Stage] = frozenset({"output"})

    def __init__(
        self,
        secrets: Sequence[str] = (),
        *,
        protect_system: bool = True,
        allow_hosts: Sequence[str] = (),
        reaction: Reaction = "redact",
    ) -> None:
        self.secrets, self.protect_system = tuple(secrets), protect_system
        self.allow_hosts, self.reaction = frozenset(h.lower() for h in allow_hosts), reaction

    @property
    def fingerprint(self) -> str:
        """SHA-256 hex over the options; secrets enter as hashes."""
        hashed = sorted(digest(s) for s in self.secrets)
        return digest(["secrets/1", hashed, self.protect_system, sorted(self.allow_hosts), self.reaction])

    def check(self, exchanges: Sequence[Exchange]) -> list[Verdict]:
        """One verdict per exchange; reasons name the kind of leak, never the secret."""
        return [self._check(exchange) for exchange in exchanges]

    def _check(self, exchange: Exchange) -> Verdict:
        answer = exchange.answer or ""
        found, text = [], answer
        for kind, secret in self._known(exchange):
            if any(_holds(v.text, secret) for v in _readings(answer)):
                found.append(kind)
                text = _spelled(secret).sub(MARK, text)
        for kind, spans in (("key", keys(answer)), ("link with data", self._links(answer))):
            found += [kind] * len(spans)
            for span in spans:
                text = text.replace(span, MARK)
        if self.protect_system and _quotes_system(exchange, answer):
            found, text = [*found, "system prompt"], ""
        return self._verdict(answer, text, found)

    def _verdict(self, answer: str, text: str, found: Sequence[str]) -> Verdict:
        if not found:
            return Verdict(action="allow", guard=self.name, score=0.0)
        reason = "leaks " + ", ".join(sorted(set(found)))
        block = self.reaction == "block" or text in ("", answer)
        return Verdict(
            action="block" if block else "redact",
            guard=self.name,
            reason=reason,
            score=float(len(found)),
            replacement=None if block else text,
        )

    def _known(self, exchange: Exchange) -> list[tuple[str, str]]:
        own = [("a named secret", s) for s in self.secrets]
        return own + (
            [("a secret of the system prompt", s) for s in system_secrets(exchange)] if self.protect_system else []
        )

    def _links(self, answer: str) -> list[str]:
        """Links and images of the answer that carry data to a foreign host."""
        return [m[0] for m in _LINK.finditer(answer) if self._carries(m[3] or m[4], image=m[1] == "!")]

    def _carries(self, url: str, *, image: bool) -> bool:
        try:
            parts = urlsplit(url)
        except ValueError:
            return True
        host = (parts.hostname or "").lower()
        if any(host == h or host.endswith(f".{h}") for h in self.allow_hosts):
            return False
        data = unquote(parts.query or parts.fragment)
        encoded = any(len(piece) >= 40 for piece in re.split(r"[/.?&=_-]", parts.path))
        return (image and len(data) > 0) or len(data) > 60 or encoded


def system_secrets(exchange: Exchange) -> list[str]:
    """Words of the system prompt that look like a password, in a sentence that speaks of secrecy or next to one, and
    that the user has not said."""
    said = _bare(" ".join(m.content for m in exchange.messages if m.role == "user"))
    found = []
    for message in exchange.messages:
        if message.role == "system":
            parts = [p for p in re.split(r"(?<=[.!?。！？])\s*", message.content) if p]
            near = {j for i, p in enumerate(parts) if _SECRET_SENTENCE.search(p) for j in (i - 1, i, i + 1)}
            found += [w for i in sorted(near) if 0 <= i < len(parts) for w in _candidates(parts[i])]
    return [w for w in dict.fromkeys(found) if _long_enough(w) and _bare(w) not in said]


def _candidates(sentence: str) -> list[str]:
    """Words with a dash inside, or with letters and digits: what passwords look like and prose seldom does. Korean and
    Japanese particles that stand on them are taken off."""
    return [_AFTER.sub("", _BEFORE.sub("", m[0])) for m in _SHAPED.finditer(sentence)]


def _long_enough(secret: str) -> bool:
    return len(_bare(secret)) >= (MIN_SECRET if secret.isascii() else MIN_SECRET - 2)


def _bare(text: str) -> str:
    """Letters and digits alone, folded."""
    return "".join(c for c in text.casefold() if c.isalnum())


def _readings(answer: str) -> list[View]:
    return [*views(answer), View(name="backwards", text=answer[::-1])]


def _holds(text: str, secret: str) -> bool:
    return _long_enough(secret) and _bare(secret) in _bare(text)


def _spelled(secret: str) -> re.Pattern[str]:
    """The secret's letters in order, with at most three other signs between two of them."""
    return re.compile(r"[\W_]{0,3}".join(re.escape(c) for c in _bare(secret)), re.I)


def _quotes_system(exchange: Exchange, answer: str) -> bool:
    """Whether the answer holds a long run of the system prompt that the user has not written."""
    said = " ".join(m.content for m in exchange.messages if m.role == "user").casefold()
    spoken = answer.casefold()
    for message in exchange.messages:
        if message.role == "system" and any(r in spoken and r not in said for r in _runs(message.content.casefold())):
            return True
    return False


def _runs(text: str) -> list[str]:
    words = list(re.finditer(r"\S+", text))
    if len(words) >= LEAKED_WORDS:
        return [
            text[words[i].start() : words[i + LEAKED_WORDS - 1].end()] for i in range(len(words) - LEAKED_WORDS + 1)
        ]
    size = 3 * LEAKED_WORDS
    return [text[i : i + size] for i in range(len(text) - size + 1)] if not text.isascii() else []


def keys(text: str) -> list[str]:
    """Access keys in a text that pass their form's check."""
    return [m[0] for pattern, valid in KEYS.values() for m in re.finditer(pattern, text) if valid(m[0])]


def _github(token: str) -> bool:
    """Last six characters are the CRC-32 of the rest in base 62 (GitHub's token format of 2021)."""
    digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    checksum, value = zlib.crc32(token[4:-6].encode()), ""
    while checksum:
        checksum, digit = divmod(checksum, 62)
        value = digits[digit] + value
    return value.rjust(6, "0") == token[-6:]


def _jwt(token: str) -> bool:
    """The first part is a JSON header with an algorithm."""
    head = token.split(".")[0]
    try:
        return "alg" in json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))
    except ValueError:
        return False


def _any(token: str) -> bool:
    return True


KEYS: dict[str, tuple[str, Callable[[str], bool]]] = {
    "private key": (
        r"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----[\s\S]{0,5000}?(?:-----END (?:[A-Z]+ )?PRIVATE KEY-----|$)",
        _any,
    ),
    "aws": (r"\b(?:AKIA|ASIA)[A-Z2-7]{16}\b", _any),
    "github": (r"\bgh[pousr]_[A-Za-z0-9]{36}\b", _github),
    "google": (r"\bAIza[0-9A-Za-z_-]{35}\b", _any),
    "slack": (r"\bxox[abprs]-[0-9A-Za-z-]{20,200}\b", _any),
    "stripe": (r"\b[rs]k_live_[0-9A-Za-z]{20,100}\b", _any),
    "openai": (r"\bsk-(?:proj-|ant-)?[A-Za-z0-9_-]{32,200}\b", _any),
    "jwt": (r"\beyJ[A-Za-z0-9_-]{10,1000}\.eyJ[A-Za-z0-9_-]{10,4000}\.[A-Za-z0-9_-]{10,1000}\b", _jwt),
}
"""Kind of key → its form, and a check that a real one passes."""


def guard(
    secrets: Sequence[str] = (),
    *,
    protect_system: bool = True,
    allow_hosts: Sequence[str] = (),
    reaction: Reaction = "redact",
) -> SecretsGuard:
    """`secrets`: strings that must not leave. `protect_system`: also what the system prompt calls secret, and long
    quotes of it. `allow_hosts`: hosts that links may carry data to. `reaction`: take leaks out, or refuse the
    answer."""
    return SecretsGuard(secrets, protect_system=protect_system, allow_hosts=allow_hosts, reaction=reaction)
