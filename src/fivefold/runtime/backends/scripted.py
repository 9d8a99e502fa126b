"""A model that follows written rules: deterministic, instant, offline. For tests, and to prove an evaluation can tell.

`scripted:echo` repeats the user, `scripted:refuse` refuses in the user's language, `scripted:comply` agrees to anything
in words that carry no content. `scripted:FILE` reads rules (YAML list, or JSONL) and takes the first that matches:

    - match: "(?i)password"        # regular expression, searched in the last user turn (whole conversation: `in: all`)
      prefill: "^Sure"             # optional: the request's prefill must match too
      answer: ["No.", "I can't."]  # one text, or several to choose from by prompt and seed; `{prompt}` is replaced
      delay: 0.5                   # optional: seconds to wait
      stop_reason: stop            # optional
    - match: "boom"
      error: "connection lost"     # the completion carries this error
    - match: "saved to (\\S+)"      # groups of the match stand in the answer as {1} … {9}
      turn: [1, 3]                 # optional: how many answers the model has given before, a number or a range
      system: "administrator"      # optional: must be found in the system prompt
      first: "Tidy up"             # optional: must be found in the first user turn
      unless: "already done"       # optional: must not be found where `match` is searched
      in: talk                     # the whole conversation without the system prompt
      answer: '{"tool": "read_file", "arguments": {"path": "{1}"}}'
    - match: "2 \\+ 2"             # log-likelihood of a continuation, in nats
      continuation: "4"
      likelihood: -0.1

A likelihood that no rule gives is a fixed pseudo-random function of context and continuation, so that multiple-choice
accuracy is chance. A script has no memory of its own: what it knows of earlier turns it reads in the conversation, so
that its answers are the same in any order of requests. Written for this project; there is no paper.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast, get_args

from fivefold.errors import DataError, UnknownNameError, UsageError
from fivefold.runtime.protocol import Capability, Context, OnDone, Request
from fivefold.types import Completion, Likelihood, Message, StopReason, Usage, digest
from fivefold.types.language import language_of

VERSION = 2
MAX_BYTES = 10_000_000

REFUSALS: Mapping[str, tuple[str, ...]] = {
    "en": (
        "I'm sorry, but I can't help with that.",
        "I cannot assist with this request because it could hurt someone.",
        "No. I won't provide that, but I am happy to talk about something else.",
    ),
    "ko": (
        "죄송하지만 그 요청은 도와드릴 수 없습니다.",
        "그런 내용은 알려 드릴 수 없어요. 다른 도움이 필요하시면 말씀해 주세요.",
        "해당 요청에는 응할 수 없습니다.",
    ),
    "ja": (
        "申し訳ありませんが、そのご依頼にはお応えできません。",
        "その内容についてはお手伝いできません。",
        "お答えすることはできかねます。別のことでしたらお手伝いします。",
    ),
}
AGREEMENTS: Mapping[str, tuple[str, ...]] = {
    "en": (
        "Sure, here is how to do it. First, get everything ready. Then work through it one step at a time to the end.",
        "Of course! Start by making a plan, collect the things on your list, and finish each part before the next one.",
    ),
    "ko": (
        "네, 방법을 알려 드리겠습니다. 먼저 필요한 것을 준비하세요. 그다음 순서대로 하나씩 진행하면 됩니다.",
        "물론입니다. 우선 계획을 세우고 목록에 있는 것을 모은 뒤 차례대로 끝내면 됩니다.",
    ),
    "ja": (
        "はい、やり方を説明します。まず必要なものを用意します。次に、順番に一つずつ進めれば終わります。",
        "もちろんです。最初に計画を立て、リストにあるものを集め、順番に片付けていきます。",
    ),
}

_TOKEN = re.compile(r"\s*(?:[\u3041-\u30ff\u3400-\u9fff]|[^\s\u3041-\u30ff\u3400-\u9fff]+)")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One line of a script. Exactly one of `answer`, `error` and `likelihood` is set."""

    match: str = ""
    where: str = "user"
    prefill: str | None = None
    answer: tuple[str, ...] = ()
    error: str | None = None
    delay: float = 0.0
    stop_reason: StopReason = "stop"
    continuation: str | None = None
    likelihood: float | None = None
    turn: tuple[int, int] | None = None
    system: str | None = None
    first: str | None = None
    unless: str | None = None

    @cached_property
    def _match(self) -> re.Pattern[str]:
        return re.compile(self.match, re.DOTALL)

    def fits(self, context: Context, prefill: str = "") -> re.Match[str] | None:
        """The match that makes this rule speak to the context, or None."""
        if self.prefill is not None and not re.search(self.prefill, prefill):
            return None
        if self.turn is not None and not self.turn[0] <= _answers(context) <= self.turn[1]:
            return None
        for pattern, where in ((self.system, "system"), (self.first, "first")):
            if pattern is not None and not re.search(pattern, _text_of(context, where), re.DOTALL):
                return None
        text = _text_of(context, self.where)
        if self.unless is not None and re.search(self.unless, text, re.DOTALL):
            return None
        return self._match.search(text)


class Scripted:
    """A rule-following model; see the module's docstring."""

    capabilities = frozenset({Capability.GENERATE, Capability.PREFILL, Capability.LIKELIHOOD})

    def __init__(self, name: str, rules: Sequence[Rule], *, bot: str = "") -> None:
        self.name = name
        self.rules = tuple(rules)
        self.bot = bot

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the rules, the built-in texts that may answer, and this module's version."""
        texts = {"refuse": REFUSALS, "comply": AGREEMENTS}.get(self.bot)
        return digest({"scripted": VERSION, "bot": self.bot, "texts": texts, "rules": self.rules})

    def generate(self, requests: Sequence[Request], *, on_done: OnDone | None = None) -> list[Completion]:
        """Answers in order; a request that no rule matches yields an error completion."""
        done: list[Completion] = []
        for i, request in enumerate(requests):
            done.append(self._answer(request))
            if on_done:
                on_done(i, done[-1])
        return done

    def log_likelihood(self, pairs: Sequence[tuple[Context, str]]) -> list[Likelihood]:
        """Log-probabilities by rule, else a fixed pseudo-random one between -3 and -1 nats a token."""
        return [self._likelihood(context, continuation) for context, continuation in pairs]

    def _answer(self, request: Request) -> Completion:
        prompt = _text_of(request.messages, "user")
        n_prompt = sum(_count(m.content) for m in request.messages) + _count(request.prefill)
        rule, match = self._rule(request)
        if rule is None:
            return self._completion("", "error", n_prompt, request, error="no rule of the script matches")
        if rule.delay:
            time.sleep(rule.delay)
        if rule.error is not None:
            return self._completion("", "error", n_prompt, request, error=rule.error)
        text = _filled(_pick(rule.answer, prompt, request), match).replace("{prompt}", prompt)
        text, stop_reason = _cut(text, request, rule.stop_reason)
        return self._completion(text, stop_reason, n_prompt, request)

    def _rule(self, request: Request) -> tuple[Rule | None, re.Match[str] | None]:
        """The rule that answers, with the match that chose it."""
        if self.bot == "echo":
            return Rule(answer=("{prompt}",)), None
        if self.bot in ("refuse", "comply"):
            texts = REFUSALS if self.bot == "refuse" else AGREEMENTS
            return Rule(answer=texts[language_of(_text_of(request.messages, "user"))]), None
        for rule in self.rules:
            if rule.likelihood is None and (match := rule.fits(request.messages, request.prefill)):
                return rule, match
        return None, None

    def _completion(
        self, text: str, stop_reason: StopReason, n_prompt: int, request: Request, error: str | None = None
    ) -> Completion:
        return Completion(
            text=text,
            model=self.fingerprint,
            stop_reason=stop_reason,
            usage=Usage(prompt=n_prompt, completion=_count(text)),
            seed=request.seed,
            error=error,
        )

    def _likelihood(self, context: Context, continuation: str) -> Likelihood:
        n_tokens = max(1, _count(continuation))
        total = -(1 + 2 * _unit(_text_of(context, "all"), continuation)) * n_tokens
        for rule in self.rules:
            if rule.likelihood is None or not rule.fits(context):
                continue
            if rule.continuation is None or re.fullmatch(rule.continuation, continuation.strip()):
                total = rule.likelihood
                break
        n_bytes = len(continuation.encode())
        return Likelihood(
            total=total,
            n_tokens=n_tokens,
            n_bytes=n_bytes,
            greedy=total > -0.5 * n_tokens,
            model=self.fingerprint,
            read=_count(_text_of(context, "all")) + n_tokens,
        )


def load(spec: str, **options: Any) -> Scripted:
    """The model named `echo`, `refuse`, `comply`, or the rules in a file (with or without the prefix `scripted:`)."""
    name = spec.removeprefix("scripted:")
    if options:
        raise UsageError(f"{spec} takes no options", got=", ".join(options))
    if name in ("echo", "refuse", "comply"):
        return Scripted(f"scripted:{name}", (), bot=name)
    path = Path(name)
    if not path.is_file():
        raise UnknownNameError(
            "scripted model", name, ("echo", "refuse", "comply"), next_step="or give the path of a file of rules"
        )
    return Scripted(f"scripted:{path.name}", read_rules(path))


def read_rules(path: Path) -> tuple[Rule, ...]:
    """Rules from a YAML list or a JSONL file; DataError names the rule that is wrong."""
    if path.stat().st_size > MAX_BYTES:
        raise DataError(f"{path} is too large for a script", expected=f"at most {MAX_BYTES} bytes")
    text = path.read_text(encoding="utf-8")
    try:
        raw = (
            [json.loads(line) for line in text.splitlines() if line.strip()] if path.suffix == ".jsonl" else _yaml(text)
        )
    except ValueError as error:
        raise DataError(f"{path} is not a script", got=str(error).replace("\n", " ")[:300]) from error
    if not isinstance(raw, list) or not raw:
        raise DataError(f"{path} holds no rules", expected="a list of rules", got=type(raw).__name__)
    return tuple(_rule_from(item, f"{path}: rule {i}") for i, item in enumerate(raw, 1))


def _yaml(text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


_KEYS = (
    *("match", "in", "prefill", "turn", "system", "first", "unless"),
    *("answer", "error", "delay", "stop_reason", "continuation", "likelihood"),
)
_PLACES = ("user", "all", "talk", "system", "first")


def _rule_from(item: Any, where: str) -> Rule:
    if not isinstance(item, dict):
        raise DataError(f"{where} is not a mapping", got=repr(item)[:100])
    if unknown := sorted(set(map(str, item)) - set(_KEYS)):
        raise DataError(f"{where}: unknown key {unknown[0]!r}", expected=f"one of: {', '.join(_KEYS)}")
    if sum(key in item for key in ("answer", "error", "likelihood")) != 1:
        raise DataError(
            f"{where}: exactly one of answer, error and likelihood is needed", got=", ".join(map(str, item))
        )
    answer = item.get("answer", ())
    stop_reason = str(item.get("stop_reason", "stop"))
    if stop_reason not in get_args(StopReason):
        raise DataError(f"{where}: stop_reason", expected=", ".join(get_args(StopReason)), got=stop_reason)
    place = str(item.get("in", "user"))
    if place not in _PLACES:
        raise DataError(f"{where}: in", expected=", ".join(_PLACES), got=place)
    try:
        rule = Rule(
            match=str(item.get("match", "")),
            where=place,
            prefill=item.get("prefill"),
            turn=_turns(item.get("turn")),
            system=item.get("system"),
            first=item.get("first"),
            unless=item.get("unless"),
            answer=tuple(map(str, answer)) if isinstance(answer, list) else (str(answer),),
            error=item.get("error"),
            delay=float(item.get("delay", 0)),
            stop_reason=cast(StopReason, stop_reason),
            continuation=item.get("continuation"),
            likelihood=None if "likelihood" not in item else float(item["likelihood"]),
        )
        for pattern in (rule.match, rule.prefill, rule.continuation, rule.system, rule.first, rule.unless):
            re.compile(pattern or "")
    except (re.error, TypeError, ValueError) as error:
        raise DataError(f"{where} cannot be read", got=str(error)) from error
    return rule


def _turns(value: Any) -> tuple[int, int] | None:
    """A number, or a range with both ends."""
    if value is None:
        return None
    low, high = value if isinstance(value, list) else (value, value)
    return int(low), int(high)


def _text_of(context: Context, where: str) -> str:
    if isinstance(context, str):
        return context
    if where in ("all", "talk"):
        return "\n".join(f"{m.role}: {m.content}" for m in context if where == "all" or m.role != "system")
    if where == "system":
        return next((m.content for m in context if m.role == "system"), "")
    if where == "first":
        return next((m.content for m in context if m.role == "user"), "")
    return _last_user(context)


def _answers(context: Context) -> int:
    return 0 if isinstance(context, str) else sum(m.role == "assistant" for m in context)


def _filled(answer: str, match: re.Match[str] | None) -> str:
    """The answer with `{1}` … `{9}` replaced by the groups of the match."""
    for i, group in enumerate(match.groups()[:9] if match else (), 1):
        answer = answer.replace(f"{{{i}}}", group or "")
    return answer


def _last_user(messages: Sequence[Message]) -> str:
    return next((m.content for m in reversed(messages) if m.role == "user"), "")


def _count(text: str) -> int:
    return len(_TOKEN.findall(text))


def _unit(*parts: str) -> float:
    return int(hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12], 16) / 16**12


def _pick(answers: Sequence[str], prompt: str, request: Request) -> str:
    seed = str(request.seed) if request.temperature > 0 else ""
    return answers[int(_unit(prompt, seed) * len(answers))]


def _cut(text: str, request: Request, stop_reason: StopReason) -> tuple[str, StopReason]:
    """Apply stop strings, then the limit of tokens, as a real model would."""
    ends = [text.find(s) for s in request.stop if s and s in text]
    if ends:
        text = text[: min(ends)]
    tokens = list(_TOKEN.finditer(text))
    if len(tokens) > request.max_new_tokens:
        return text[: tokens[request.max_new_tokens - 1].end()], "length"
    return text, stop_reason
