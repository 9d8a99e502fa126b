"""fivefold as an Inspect provider: batches, tools, names that carry the weights, likelihood, nothing downloaded."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("inspect_ai")

from inspect_ai.model import (
    ChatMessageAssistant,
    ChatMessageTool,
    ChatMessageUser,
    ContentImage,
    GenerateConfig,
    get_model,
)
from inspect_ai.tool import ToolCall, ToolFunction, ToolInfo, ToolParams

from fivefold.engine import provider
from fivefold.engine.serving import Served
from fivefold.errors import CapabilityError, ModelError, UsageError
from fivefold.runtime.backends.scripted import Rule, Scripted, load
from fivefold.types import Completion

ROOT = Path(__file__).parents[2]
TOOL = ToolInfo(name="weather", description="The weather of a city.", parameters=ToolParams())


def api(model: Scripted) -> provider.FivefoldAPI:
    return provider.FivefoldAPI(provider.register(model))


def ask(model: Scripted, messages, tools=(), choice="auto", **config):
    made = api(model)
    return asyncio.run(made.generate(list(messages), list(tools), choice, GenerateConfig(**config)))


def user(text: str) -> ChatMessageUser:
    return ChatMessageUser(content=text)


def test_the_name_carries_the_fingerprint() -> None:
    model = load("echo")
    name = provider.register(model)
    assert name == f"scripted:echo@{model.fingerprint[:12]}"
    assert str(get_model(f"fivefold/{name}", memoize=False)) == f"fivefold/{name}"
    assert api(load("refuse")).model_name != api(model).model_name


def test_a_model_that_was_not_registered_is_loaded_by_its_name() -> None:
    made = get_model("fivefold/scripted:comply", memoize=False)
    assert str(made).startswith("fivefold/scripted:comply@")


def test_output_has_text_usage_and_stop_reason() -> None:
    output = ask(load("echo"), [user("one two three")], max_tokens=2)
    assert output.completion == "one two"
    assert output.stop_reason == "max_tokens"
    assert output.usage is not None and (output.usage.input_tokens, output.usage.output_tokens) == (3, 2)


def test_concurrent_requests_meet_in_one_batch() -> None:
    sizes: list[int] = []

    class Counting(Scripted):
        def generate(self, requests, *, on_done=None):
            sizes.append(len(requests))
            return super().generate(requests, on_done=on_done)

    made = api(Counting("counting", (), bot="echo"))

    async def all_at_once():
        return await asyncio.gather(*(made.generate([user(str(i))], [], "auto", GenerateConfig()) for i in range(50)))

    outputs = asyncio.run(all_at_once())
    assert [o.completion for o in outputs] == [str(i) for i in range(50)]
    assert len(sizes) <= 2


def test_tools_reach_the_prompt_and_calls_come_back() -> None:
    rules = (
        Rule(match="Result of weather:\nsunny", answer=("It is sunny.",)),
        Rule(match='"name": "weather"', where="all", answer=('{"tool": "weather", "arguments": {"city": "Oslo"}}',)),
        Rule(answer=("no tools",)),
    )
    model = Scripted("tooled", rules)
    first = ask(model, [user("How is Oslo?")], [TOOL])
    assert first.stop_reason == "tool_calls"
    call = (first.message.tool_calls or [])[0]
    assert (call.function, call.arguments) == ("weather", {"city": "Oslo"})
    history = [
        user("How is Oslo?"),
        first.message,
        ChatMessageTool(content="sunny", function="weather", tool_call_id=call.id),
    ]
    assert ask(model, history, [TOOL]).completion == "It is sunny."
    assert ask(model, [user("How is Oslo?")], [TOOL], "none").completion == "no tools"


def test_a_tool_that_must_be_called_is_named() -> None:
    model = Scripted(
        "must", (Rule(match="Call the tool weather now", where="all", answer=("told",)), Rule(answer=("not",)))
    )
    assert ask(model, [user("hi")], [TOOL], ToolFunction(name="weather")).completion == "told"
    assert ask(model, [user("hi")], [TOOL]).completion == "not"


def test_earlier_calls_are_shown_as_the_model_wrote_them() -> None:
    history = [
        user("q"),
        ChatMessageAssistant(content="", tool_calls=[ToolCall(id="1", function="weather", arguments={"city": "Oslo"})]),
        user("and now?"),
    ]
    request = provider.request_from(load("echo"), history, [], "auto", GenerateConfig())
    assert request.messages[1].content == '{"tool": "weather", "arguments": {"city": "Oslo"}}'


def test_a_last_assistant_message_is_a_prefill() -> None:
    model = Scripted("prefilled", (Rule(prefill="^Sure", answer=("and so on",)), Rule(answer=("no",))))
    assert ask(model, [user("q"), ChatMessageAssistant(content="Sure")]).completion == "and so on"


def test_several_choices_are_several_samples() -> None:
    output = ask(load("comply"), [user("q")], num_choices=8, temperature=1.0)
    texts = [c.message.text for c in output.choices]
    assert len(texts) == 8 and len(set(texts)) == 2


def test_what_cannot_be_done_raises() -> None:
    with pytest.raises(UsageError, match="top_k"):
        ask(load("echo"), [user("q")], top_k=5)
    image = ChatMessageUser(content=[ContentImage(image="data:image/png;base64,AA==")])
    with pytest.raises(UsageError, match="text only"):
        ask(load("echo"), [image])
    with pytest.raises(CapabilityError, match="log-probabilities"):
        ask(load("echo"), [user("q")], logprobs=True)
    with pytest.raises(ModelError, match="broken"):
        ask(Scripted("failing", (Rule(error="broken"),)), [user("q")])


def test_token_logprobs_are_passed_on() -> None:
    tokens = [{"token": "a", "logprob": -0.5, "top": {"a": -0.5, "b": -1.0}}]
    completion = Completion(text="a", model="m", metadata={"logprobs": tokens})
    output = provider.output_from("m", [completion], [], GenerateConfig(logprobs=True))
    assert output.choices[0].logprobs is not None
    first = output.choices[0].logprobs.content[0]
    assert first.logprob == -0.5 and len(first.top_logprobs or []) == 2


def test_likelihood_is_reachable_and_equals_the_models() -> None:
    model = load("comply")
    pairs = [("a", " b"), ("a", " c")]
    assert asyncio.run(api(model).loglikelihood(pairs)) == model.log_likelihood(pairs)


def test_tokens_are_counted_without_a_download() -> None:
    assert asyncio.run(api(load("echo")).count_text_tokens("x" * 40)) == 11
    with pytest.raises(NotImplementedError):
        asyncio.run(api(load("echo")).tokenize("x"))


def test_a_registered_model_can_be_forgotten() -> None:
    name = provider.register(Served(load("echo")))
    provider.unregister(name)
    assert name not in provider._handles


@pytest.mark.slow
def test_inspect_eval_finds_the_provider_by_its_entry_point(tmp_path: Path) -> None:
    """`inspect eval task.py --model fivefold/…` on the command line, with the entry point as an installation has it."""
    task = tmp_path / "task.py"
    task.write_text(
        "from inspect_ai import Task, task\n"
        "from inspect_ai.dataset import Sample\n"
        "from inspect_ai.scorer import includes\n"
        "@task\n"
        "def demo():\n"
        "    return Task(dataset=[Sample(input='say apple', target='apple')], scorer=includes())\n"
    )
    info = tmp_path / "site" / "fivefold_entry-0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fivefold-entry\nVersion: 0\n")
    (info / "entry_points.txt").write_text("[inspect_ai]\nfivefold = fivefold.engine.provider\n")
    path = os.pathsep.join([str(tmp_path / "site"), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": path, "XDG_DATA_HOME": str(tmp_path / "data"), "NO_COLOR": "1"}
    command = [sys.executable, "-m", "inspect_ai", "eval", "task.py", "--model", "fivefold/scripted:echo"]
    done = subprocess.run(
        [*command, "--display", "plain", "--log-dir", str(tmp_path / "logs")],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "accuracy: 1.0" in done.stdout.replace("accuracy 1.0", "accuracy: 1.0") or "1.000" in done.stdout, (
        done.stdout
    )
    assert "fivefold/scripted:echo@" in done.stdout


def test_the_entry_point_of_the_package_names_this_module() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["inspect_ai"] == {"fivefold": provider.__name__}
