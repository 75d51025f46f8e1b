from pathlib import Path

import pytest

from pointsman.adapters import Bundle
from pointsman.integrations import LLMSettings, OpenAICompatible, Settings, assembly, open_router
from pointsman.integrations.settings import KnowledgeBaseSettings
from pointsman.router import ConfigurationError, Label, SmallTalk
from pointsman.router.testing import ScriptedClassifier


def scripted(monkeypatch: pytest.MonkeyPatch, classifier: ScriptedClassifier) -> None:
    async def open_gatekeeper(settings: Settings) -> ScriptedClassifier:
        return classifier

    monkeypatch.setattr(assembly, "open_gatekeeper", open_gatekeeper)


async def test_a_router_from_settings_answers_from_the_sample_handbook(tiny_bundle: Bundle, tiny_base: Path) -> None:
    settings = Settings(bundle=str(tiny_bundle.path), base=str(tiny_base))
    async with await open_router(settings) as router:
        reply = await router.route("数据清洗流程是什么")

    assert reply.decision.bundle == tiny_bundle.id
    assert reply.text


async def test_each_label_reaches_its_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(
        monkeypatch,
        ScriptedClassifier({"数据清洗流程是什么?": "data_platform", "hello": "general_chat", "weather": "irrelevant"}),
    )
    async with await open_router(Settings()) as router:
        assert "zh-data-cleaning.md" in (await router.route("数据清洗流程是什么？")).text
        assert "No general LLM is configured" in (await router.route("hello")).text
        assert "outside what I can help with" in (await router.route("weather")).text


async def test_an_endpoint_in_the_settings_replaces_small_talk(monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, ScriptedClassifier({}))
    llm = LLMSettings(base_url="http://localhost/v1", model="m")
    async with await open_router(Settings()) as router:
        assert isinstance(router.handlers["general_llm"], SmallTalk)
    async with await open_router(Settings(llm=llm)) as router:
        assert isinstance(router.handlers["general_llm"], OpenAICompatible)


@pytest.mark.parametrize("seconds", [5.0, 60.0, 900.0])
async def test_the_router_waits_for_an_endpoint_longer_than_its_own_timeout(
    monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    scripted(monkeypatch, ScriptedClassifier({}))
    llm = LLMSettings(base_url="http://localhost/v1", model="m", timeout=seconds)
    async with await open_router(Settings(llm=llm)) as router:
        limits = router._dispatcher._tracks["general_llm"].limits

    assert limits.total >= limits.first_chunk > seconds


async def test_a_route_without_a_handler_closes_what_was_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = (Label(name="a", route="knowledge_base"), Label(name="b", route="billing"))
    classifier = ScriptedClassifier({}, labels=labels)
    scripted(monkeypatch, classifier)

    with pytest.raises(ConfigurationError, match="no handler for billing"):
        await open_router(Settings())
    assert classifier.closed == 1


async def test_a_folder_without_pages_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        await open_router(Settings(knowledge_base=KnowledgeBaseSettings(folder=tmp_path)))
