import pytest

from pointsman.router import Conversation, InputError, Message, Role, Window


def user(text: str) -> dict[str, object]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, object]:
    return {"role": "assistant", "content": text}


def test_a_text_is_one_user_message() -> None:
    assert Conversation.of("hi").messages == (Message(role=Role.USER, content="hi"),)


def test_a_conversation_and_its_messages_are_taken_as_they_are() -> None:
    message = Message(role=Role.USER, content="hi")
    conversation = Conversation(messages=(message,))

    assert Conversation.of(conversation) is conversation
    assert Conversation.of([message]).messages[0] is message


def test_of_a_list_of_parts_the_text_parts_are_kept() -> None:
    parts = [
        {"type": "text", "text": "what is"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        {"type": "text", "text": "this error"},
        "a plain string",
    ]

    assert Message.of({"role": "user", "content": parts}).content == "what is\nthis error\na plain string"


def test_content_may_be_missing_where_an_assistant_only_calls_tools() -> None:
    assert Message.of({"role": "assistant", "content": None, "tool_calls": []}).content == ""
    assert Message.of({"role": "assistant"}).content == ""


@pytest.mark.parametrize(
    ("value", "said"),
    [
        pytest.param(7, "a text or a list of messages, got int", id="number"),
        pytest.param({"role": "user", "content": "x"}, "a text or a list of messages, got dict", id="bare-message"),
        pytest.param(b"hi", "`role` and `content`, got int", id="bytes"),
        pytest.param([], "needs a user message, got 0 messages", id="empty"),
        pytest.param([assistant("hello")], "needs a user message, got 1 messages", id="no-user"),
        pytest.param(["hi"], "`role` and `content`, got str", id="list-of-texts"),
        pytest.param([{"role": "robot", "content": "x"}], "got 'robot'", id="unknown-role"),
        pytest.param([{"role": "User", "content": "x"}], "got 'User'", id="role-in-capitals"),
        pytest.param([{"role": ["user"], "content": "x"}], r"got \['user'\]", id="role-is-a-list"),
        pytest.param([{"content": "x"}], "got None", id="no-role"),
        pytest.param(
            [{"role": "user", "content": 3}],
            "`content` must be a text or a list of parts, got int",
            id="number-content",
        ),
        pytest.param([{"role": "user", "content": {"text": "x"}}], "list of parts, got dict", id="object-content"),
        pytest.param([{"role": "user", "content": b"x"}], "list of parts, got bytes", id="bytes-content"),
    ],
)
def test_another_shape_is_refused_with_what_was_found(value: object, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Conversation.of(value)  # type: ignore[arg-type]


def test_the_last_user_message_is_the_one_to_route() -> None:
    assert Conversation.of([user("a"), user("b"), assistant("c")]).last_user_message == "b"


def test_the_window_holds_the_message_and_the_turn_before_it() -> None:
    turns = [user("a"), assistant("b"), user("ｃ"), assistant("d "), user(" e\u200b")]

    assert Window.of(Conversation.of(turns)) == Window(message="e", previous_user="c", previous_reply="d")


def test_a_single_message_has_no_context() -> None:
    assert Window.of(Conversation.of("a")) == Window(message="a")


def test_what_system_and_tools_say_is_not_read() -> None:
    turns = [
        {"role": "system", "content": "you are a bot"},
        user("a"),
        assistant("b"),
        {"role": "tool", "content": "rows: 3"},
        {"role": "developer", "content": "be brief"},
        user("c"),
        assistant("after the message"),
    ]

    assert Window.of(Conversation.of(turns)) == Window(message="c", previous_user="a", previous_reply="b")


def test_of_two_user_messages_in_a_row_the_first_is_context_without_a_reply() -> None:
    turns = [user("a"), assistant("b"), user("c"), user("d")]

    assert Window.of(Conversation.of(turns)) == Window(message="d", previous_user="c", previous_reply="")


def test_a_greeting_of_the_assistant_is_a_reply_to_nothing() -> None:
    assert Window.of(Conversation.of([assistant("welcome"), user("a")])) == Window(
        message="a", previous_reply="welcome"
    )
