import asyncio
import sqlite3
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

import pointsman.router
from pointsman.router import ConfigurationError, Conversation, Handler, HandlerError, KnowledgeBase, Passage
from pointsman.router.errors import MissingDependencyError
from pointsman.router.handlers._passages import LONGEST_PASSAGE, read_passages
from pointsman.router.testing import decided

HANDBOOK = Path(pointsman.router.__file__).resolve().parents[1] / "integrations" / "sample" / "handbook"
DECISION = decided()


@pytest.fixture(scope="module")
def handbook_passages() -> list[Passage]:
    return read_passages(HANDBOOK)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "billing.md").write_text(
        "# Billing\n\nInvoices are sent on the first of the month.\n\n"
        "## Refunds\n\nA refund takes five working days.\n\n## 退款\n\n退款需要五个工作日。\n",
        encoding="utf-8",
    )
    (tmp_path / "parking.md").write_text(
        "# Parking\n\nThe garage closes at nine.\n\n## Bicycles\n\nRacks stand in the yard.\n", encoding="utf-8"
    )
    return tmp_path


def conversation(*texts: str) -> Conversation:
    """User messages, each but the last answered."""
    turns = [{"role": "user", "content": text} for text in texts]
    answered = [message for turn in turns[:-1] for message in (turn, {"role": "assistant", "content": "…"})]
    return Conversation.of([*answered, turns[-1]])


async def opened(source: Path | list[Passage]) -> KnowledgeBase:
    """Indexing blocks, so it is kept off the event loop, as its docstring asks."""
    if isinstance(source, Path):
        return await asyncio.to_thread(KnowledgeBase.from_folder, source)
    return await asyncio.to_thread(KnowledgeBase, source)


async def reply(knowledge: KnowledgeBase, *texts: str) -> str:
    return "".join([piece async for piece in knowledge.stream(conversation(*texts), DECISION)])


# the sample handbook


@pytest.mark.parametrize(
    ("question", "source", "fact"),
    [
        pytest.param("数据清洗流程是什么？", "zh-data-cleaning.md", "标准化", id="the seed's question"),
        pytest.param("How do I backfill a DAG for last week?", "en-backfills.md", "Dry run", id="backfill"),
        pytest.param("怎么申请表的权限", "zh-access.md", "审批", id="access-zh"),
        pytest.param("is GMV with or without refunds", "en-metrics.md", "pay_amt", id="metrics"),
    ],
)
async def test_the_sample_handbook_answers_first_with_the_right_page(
    handbook_passages: list[Passage], question: str, source: str, fact: str
) -> None:
    async with await opened(handbook_passages) as knowledge:
        first = (await knowledge.search(question))[0]

    assert first.source == source
    assert fact in first.text


def test_the_sample_handbook_has_both_languages_and_short_pages() -> None:
    english, chinese = (sorted(path.name[3:] for path in HANDBOOK.glob(f"{lang}-*.md")) for lang in ("en", "zh"))

    assert english == chinese
    assert len(english) + len(chinese) >= 28
    for path in HANDBOOK.glob("*.md"):
        assert path.read_text(encoding="utf-8").startswith("# "), path.name


async def test_a_reply_opens_in_the_users_language_and_names_its_sources(handbook_passages: list[Passage]) -> None:
    async with await opened(handbook_passages) as knowledge:
        english = await reply(knowledge, "How do I backfill a DAG for last week?")
        chinese = await reply(knowledge, "数据清洗流程是什么？")

    assert english.startswith("Here is what the knowledge base says:\n\n**Backfills** (en-backfills.md)\n\n")
    assert chinese.startswith("知识库里是这样写的：\n\n**数据清洗流程** (zh-data-cleaning.md)\n\n")


@pytest.mark.parametrize(
    ("question", "sentence"),
    [
        pytest.param("who painted the Mona Lisa", "ask the data team", id="english"),
        pytest.param("谁画了蒙娜丽莎", "请联系数据团队", id="chinese"),
        pytest.param("", "ask the data team", id="empty"),
        pytest.param("?!… —", "ask the data team", id="punctuation"),
        pytest.param("how do I do it", "ask the data team", id="stopwords"),
        pytest.param("在哪里", "请联系数据团队", id="chinese-stopwords"),
    ],
)
async def test_it_says_so_when_nothing_fits(handbook_passages: list[Passage], question: str, sentence: str) -> None:
    async with await opened(handbook_passages) as knowledge:
        assert await knowledge.search(question) == []
        assert sentence in await reply(knowledge, question)


# ranking


async def test_passages_in_the_questions_language_come_first(handbook_passages: list[Passage]) -> None:
    async with await opened(handbook_passages) as knowledge:
        english = await knowledge.search("Kafka Flink CDC")
        chinese = await knowledge.search("Kafka Flink 作业怎么部署")

    assert english[0].source.startswith("en-")
    assert chinese[0].source.startswith("zh-")


async def test_another_language_is_better_than_nothing(folder: Path) -> None:
    async with await opened(folder) as knowledge:
        assert [passage.source for passage in await knowledge.search("Bicycles 放哪里")] == ["parking.md"]


async def test_a_word_in_the_heading_counts_more_than_in_the_text() -> None:
    filler = [Passage(text=f"Nothing of note, {number}.", title="Other", source="o.md") for number in range(8)]
    inside = Passage(text="Alpha beta quota gamma.", title="Alpha", source="text.md")
    above = Passage(text="Alpha beta gamma delta.", title="Quota", source="title.md")
    async with await opened([inside, above, *filler]) as knowledge:
        found = await knowledge.search("quota")

    assert [passage.source for passage in found] == ["title.md", "text.md"]
    assert found[0].score > found[1].score > 0


async def test_inflected_words_and_words_of_the_same_meaning_are_found(folder: Path) -> None:
    (folder / "jobs.md").write_text("# Pipelines\n\nThey restart by themselves.\n", encoding="utf-8")
    async with await opened(folder) as knowledge:
        assert (await knowledge.search("refunded invoice"))[0].source == "billing.md"
        assert (await knowledge.search("restarting jobs"))[0].source == "jobs.md"


async def test_limit_bounds_what_is_returned(handbook_passages: list[Passage]) -> None:
    async with await opened(handbook_passages) as knowledge:
        assert [len(await knowledge.search("backfill a DAG", limit)) for limit in (1, 2)] == [1, 2]
        assert len(await knowledge.search("数据清洗流程", 5)) > 3
        with pytest.raises(ConfigurationError, match=r"`limit` must be at least 1, got 0"):
            await knowledge.search("backfill", 0)


# follow-ups


async def test_a_follow_up_that_finds_nothing_alone_is_read_with_the_message_before(folder: Path) -> None:
    async with await opened(folder) as knowledge:
        assert await knowledge.search("why?") == []
        assert "five working days" in await reply(knowledge, "How long does a refund take?", "why?")
        assert "五个工作日" in await reply(knowledge, "退款要多久", "为什么")


async def test_a_message_that_leans_on_the_one_before_is_read_with_it(handbook_passages: list[Passage]) -> None:
    async with await opened(handbook_passages) as knowledge:
        text = await reply(knowledge, "How do I backfill a DAG?", "and for last month?")

    assert text.index("(en-backfills.md)") < 60


async def test_a_new_subject_is_not_mixed_with_the_old_one(handbook_passages: list[Passage]) -> None:
    async with await opened(handbook_passages) as knowledge:
        metrics = await reply(knowledge, "How do I backfill a DAG?", "How is GMV defined?")
        foreign = await reply(knowledge, "How do I backfill a DAG?", "who painted the Mona Lisa?")

    assert "en-backfills.md" not in metrics
    assert "ask the data team" in foreign


# hostile input


@pytest.mark.parametrize(
    "text",
    [
        pytest.param('" OR passages MATCH "', id="quotes"),
        pytest.param("refund AND (NOT NEAR(a b, 2)", id="operators"),
        pytest.param("heading: refund* ^refund - + {a b}:c", id="column-filter"),
        pytest.param("'; DROP TABLE passages; --", id="sql"),
        pytest.param("ref\0und \ud800 \u202e\u200b", id="nul-surrogate-bidi"),
        pytest.param("refund " * 15_000, id="100k-words-repeated"),
        pytest.param("".join(chr(0x4E00 + number % 20_000) for number in range(100_000)), id="100k-chinese"),
        pytest.param(" ".join(f"w{number}" for number in range(17_000)), id="100k-distinct"),
        pytest.param("x" * 100_000, id="one-long-word"),
        pytest.param("?" * 100_000, id="100k-punctuation"),
        pytest.param("呢" * 100_000, id="100k-particles"),
        pytest.param("ﷺ" * 5_000, id="expands-under-nfkc"),
        pytest.param("🚀é́ก็ 한국어 العربية", id="other-scripts"),
    ],
)
async def test_any_text_is_a_safe_question(folder: Path, text: str) -> None:
    async with await opened(folder) as knowledge:
        async with asyncio.timeout(5):
            await reply(knowledge, text)
            await reply(knowledge, text, "and it?")
            await reply(knowledge, text, text)

        assert (await knowledge.search("refund"))[0].source == "billing.md"


async def test_of_a_long_message_both_ends_are_read(folder: Path) -> None:
    log = "0x7f3a at frame " * 5_000
    async with await opened(folder) as knowledge:
        for text in (f"How long does a refund take? {log}", f"{log} How long does a refund take?"):
            scores = [passage.source for passage in await knowledge.search(text)]
            assert scores in ([], ["billing.md"])
        assert await knowledge.search("refund " + "?" * 100_000)
        assert await knowledge.search("?" * 100_000 + " refund")


async def test_many_searches_at_once_all_get_their_own_answer(folder: Path) -> None:
    async with await opened(folder) as knowledge:
        found = await asyncio.gather(*(knowledge.search(word) for word in ["refund", "bicycles"] * 50))

    assert [passages[0].source for passages in found] == ["billing.md", "parking.md"] * 50


async def test_a_cancelled_search_does_not_hurt_the_next(folder: Path) -> None:
    async with await opened(folder) as knowledge:
        doomed = asyncio.create_task(knowledge.search("refund"))
        await asyncio.sleep(0)
        doomed.cancel()

        assert await knowledge.search("refund")


# life cycle


async def test_it_is_a_handler_and_closing_twice_is_fine(folder: Path) -> None:
    knowledge = await opened(folder)
    assert isinstance(knowledge, Handler)

    await knowledge.aclose()
    await knowledge.aclose()
    with pytest.raises(HandlerError, match="closed"):
        await knowledge.search("refund")
    with pytest.raises(HandlerError, match="closed"):
        await reply(knowledge, "refund")


async def test_closing_lets_searches_under_way_finish(folder: Path) -> None:
    knowledge = await opened(folder)
    searches = [asyncio.create_task(knowledge.search("refund")) for _ in range(20)]
    await asyncio.sleep(0)
    await knowledge.aclose()

    assert all(passages for passages in await asyncio.gather(*searches))


def test_a_python_without_fts5_is_told_what_is_missing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Bare(sqlite3.Connection):
        def execute(self, sql: str, /, *args: object) -> sqlite3.Cursor:
            raise sqlite3.OperationalError("no such module: fts5")

    monkeypatch.setattr(sqlite3, "connect", lambda *args, **settings: Bare(":memory:"))
    with pytest.raises(MissingDependencyError, match=r"expected SQLite with FTS5.*no such module"):
        KnowledgeBase.from_folder(folder)


# reading folders


def test_a_passage_is_an_immutable_value() -> None:
    passage = Passage(text="a", title="b", source="c", score=1.0)
    with pytest.raises(FrozenInstanceError):
        passage.text = "d"  # type: ignore[misc]
    assert passage == Passage(text="a", title="b", source="c", score=1.0)


def test_sections_become_passages_with_their_headings(folder: Path) -> None:
    billing = [passage for passage in read_passages(folder) if passage.source == "billing.md"]

    assert [passage.title for passage in billing] == ["Billing", "Billing › 退款"]
    assert billing[0].text == (
        "Invoices are sent on the first of the month.\n\n**Refunds**\n\nA refund takes five working days."
    )


def test_subfolders_are_read_and_hidden_files_are_not(folder: Path) -> None:
    (folder / "team" / "ops").mkdir(parents=True)
    (folder / "team" / "ops" / "Note.TXT").write_text("Pager duty changes on Monday.", encoding="utf-8")
    (folder / ".git").mkdir()
    (folder / ".git" / "x.md").write_text("# Hidden\n\nsecret", encoding="utf-8")
    (folder / "picture.png").write_bytes(b"\x89PNG")

    passages = {passage.source: passage for passage in read_passages(folder)}
    assert list(passages) == ["billing.md", "parking.md", "team/ops/Note.TXT"]
    assert passages["team/ops/Note.TXT"].title == "Note"


def test_markdown_front_matter_and_code_are_understood(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text(
        "---\ntitle: x\n---\n# C# and F# #\n\n## Run ##\n\n"
        "```sh\n# not a heading\n\nrun\n```\n\n#hashtag\n\n##\n\nend\n",
        encoding="utf-8",
    )

    assert [(passage.title, passage.text) for passage in read_passages(tmp_path)] == [
        ("C# and F# › Run", "```sh\n# not a heading\n\nrun\n```\n\n#hashtag\n\n##\n\nend")
    ]


def test_html_is_read_as_text_without_scripts_and_styles(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        "<html><head><title>Site</title><style>p {color: red}</style><script>var a = '<p>no</p>'</script></head>"
        "<body><h1>Access &amp; <em>grants</em></h1><p>Ask the\n  owner.</p><ul><li>read<li>write</ul>"
        "<h2>Levels</h2><table><tr><td>L1</td><td>all</td></tr></table><pre>a\n  b</pre><p>open <b>end",
        encoding="utf-8",
    )

    (passage,) = read_passages(tmp_path)
    assert passage.title == "Access & grants"
    assert passage.text == "Ask the owner.\n\n- read\n- write\n\n**Levels**\n\nL1 all\n\na\n  b\n\nopen end"


def test_windows_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_bytes(b"\xef\xbb\xbf# Title\r\n\r\nOne.\r\n\r\n## Part\r\n\r\nTwo.\r\n")
    (passage,) = read_passages(tmp_path)
    assert (passage.title, passage.text) == ("Title", "One.\n\n**Part**\n\nTwo.")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("A sentence of some length follows another. " * 400, id="sentences"),
        pytest.param("这是一个句子。" * 1_000, id="chinese"),
        pytest.param("x" * 10_000, id="no-boundary"),
        pytest.param("\n\n".join(["paragraph " * 9] * 100), id="paragraphs"),
        pytest.param("line of a list\n" * 500, id="lines"),
        pytest.param("." * 10_000, id="dots"),
    ],
)
def test_passages_are_bounded_and_lose_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "long.txt").write_text(text, encoding="utf-8")
    passages = read_passages(tmp_path)

    assert all(0 < len(passage.text) <= LONGEST_PASSAGE for passage in passages)
    assert "".join("".join(passage.text for passage in passages).split()) == "".join(text.split())


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"must be a folder, found none at '.*nowhere'; check the path"):
        KnowledgeBase.from_folder(tmp_path / "nowhere")
    (tmp_path / "file.md").write_text("# A\n\nb", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="must be a folder"):
        KnowledgeBase.from_folder(str(tmp_path / "file.md"))


@pytest.mark.parametrize("content", [pytest.param(None, id="no-files"), pytest.param("# Only a title\n", id="no-text")])
def test_a_folder_without_text_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "a.md").write_text(content, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"expected text in \*\.md, \*\.txt, \*\.html files below"):
        KnowledgeBase.from_folder(tmp_path)
    with pytest.raises(ConfigurationError, match="at least one passage"):
        KnowledgeBase([])


def test_a_file_that_is_not_utf8_is_named(folder: Path) -> None:
    (folder / "gbk.txt").write_bytes("数据".encode("gbk"))
    with pytest.raises(ConfigurationError, match=r"expected UTF-8 in '.*gbk\.txt', found byte 0xca at offset 0"):
        KnowledgeBase.from_folder(folder)
