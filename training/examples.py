"""Labelled messages: reading them from JSONL or CSV, and saying what is wrong with a file, line by line."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pointsman.router import Conversation, DataError, InputError, Window, detect_language

__all__ = ["Example", "Findings", "conversation_of", "inspect_examples", "read_examples", "read_rows"]

_SHOWN = 20
"""Most bad lines, and most pairs of near-duplicates, that are named."""
_WORD = re.compile(r"[a-z0-9]+|[\u3400-\u9fff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One labelled message in its conversation."""

    window: Window
    label: str
    language: str
    source: str
    """The file it came from, without folder and ending; slices and caps go by it."""
    group: str
    """What must stay on one side of a split: the conversation, or the message itself."""
    kind: str = ""
    """What sort of turn it is, for slices: `followup_data`, `contrast`, ..."""
    turn: int = 1
    """Which user turn of its conversation it is, from 1."""


def read_examples(paths: Iterable[Path], *, labels: Sequence[str]) -> list[Example]:
    """Return the examples in JSONL or CSV files, in order.

    A JSONL line is `{"text" | "messages", "label"}`, with `lang`, `id`, `group` and `kind` if there are any. A CSV file
    has a header with `text` and `label`.

    Raises:
        DataError: a file is missing, empty or not text, or a line is bad; the message names every bad line (the first
            twenty) and its reason. Nothing of the file is used then.
    """
    examples: list[Example] = []
    for path in paths:
        problems: list[str] = []
        found: list[Example] = []
        for number, row in _rows(path):
            try:
                if isinstance(row, InputError):
                    raise row
                found.append(_example(row, source=path.stem, labels=labels))
            except InputError as error:
                problems.append(f"{path}:{number}: {error}")
        if problems:
            more = f"\n... and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
            raise DataError("\n".join(problems[:_SHOWN]) + more)
        if not found:
            raise DataError(f'{path} is empty; expected lines of {{"text": ..., "label": ...}}')
        examples += found
    return examples


def read_rows(path: Path) -> Iterator[tuple[int, Mapping[str, object]]]:
    """Yield line numbers and objects of a JSONL or CSV file; blank lines are passed over.

    Raises:
        DataError: the file cannot be read, is not UTF-8 text, or a line is not an object.
    """
    for number, row in _rows(path):
        if isinstance(row, InputError):
            raise DataError(f"{path}:{number}: {row}")
        yield number, row


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What a person should know about a set of examples before training on it."""

    n: int
    per_label: Mapping[str, int]
    per_language: Mapping[str, int]
    per_source: Mapping[str, int]
    duplicates: int
    """Examples beyond the first with the same window and label."""
    conflicts: tuple[tuple[str, tuple[str, ...]], ...] = field(default=())
    """Windows that carry more than one label, with the labels."""
    near_duplicates: tuple[tuple[str, str], ...] = field(default=())
    """Pairs of different single messages that say nearly the same; those whose labels differ come first."""

    def warnings(self) -> list[str]:
        """Return one sentence per thing worth mending."""
        lines = []
        if self.conflicts:
            text, labels = self.conflicts[0]
            lines.append(f"{len(self.conflicts)} messages carry two labels, e.g. {text[:60]!r}: {' and '.join(labels)}")
        if self.duplicates:
            lines.append(f"{self.duplicates} of {self.n} examples repeat another one")
        if self.near_duplicates:
            first, second = self.near_duplicates[0]
            count = len({message for pair in self.near_duplicates for message in pair})
            lines.append(f"{count} messages nearly repeat another one, e.g. {first[:60]!r}: {second[:60]!r}")
        rarest, most = min(self.per_label.values()), max(self.per_label.values())
        if rarest * 10 < most:
            name = min(self.per_label, key=self.per_label.__getitem__)
            lines.append(f"labels are unbalanced: {rarest} of {name!r} against {most}; training weighs them equally")
        return lines


def inspect_examples(examples: Sequence[Example]) -> Findings:
    """Return counts, duplicates, near-duplicates and conflicts of at least one example."""
    from pointsman.training.similar import near_duplicates  # a program of its own, which `python -m` must load first

    singles = [example for example in examples if example.window.alone]
    pairs = near_duplicates([example.window.message for example in singles])
    pairs.sort(key=lambda pair: singles[pair.first].label == singles[pair.second].label)
    labels_of: defaultdict[Window, Counter[str]] = defaultdict(Counter)
    for example in examples:
        labels_of[example.window][example.label] += 1
    return Findings(
        n=len(examples),
        per_label=Counter(example.label for example in examples),
        per_language=Counter(example.language for example in examples),
        per_source=Counter(example.source for example in examples),
        duplicates=sum(count - 1 for labels in labels_of.values() for count in labels.values()),
        conflicts=tuple((w.message, tuple(sorted(labels))) for w, labels in labels_of.items() if len(labels) > 1),
        near_duplicates=tuple(
            (singles[pair.first].window.message, singles[pair.second].window.message) for pair in pairs
        ),
    )


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, object] | InputError]]:
    """Yield each line as an object, or as what is wrong with it; raise only where the rest cannot be read either."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from _csv_rows(path, file) if path.suffix.lower() in {".csv", ".tsv"} else _json_rows(file)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error.reason}); convert it, or pass another file") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error


def _json_rows(lines: Iterable[str]) -> Iterator[tuple[int, Mapping[str, object] | InputError]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield number, InputError(f"not JSON: {error}; the line starts {line[:60]!r}")
            continue
        if isinstance(row, dict):
            yield number, row
        else:
            yield number, InputError(f"expected a JSON object, found {type(row).__name__}")


def _csv_rows(path: Path, lines: Iterable[str]) -> Iterator[tuple[int, Mapping[str, object] | InputError]]:
    reader = csv.DictReader(lines, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
    try:
        if reader.fieldnames is None:
            return
        if missing := {"text", "label"} - set(reader.fieldnames):
            raise DataError(f"{path}:1: the header lacks {', '.join(sorted(missing))}; found {reader.fieldnames}")
        for row in reader:
            if None in row:
                found = len(reader.fieldnames) + len(row[None])
                wanted = f"{len(reader.fieldnames)} fields as in the header"
                yield reader.line_num, InputError(f"expected {wanted}, found {found}; quote a text that holds a comma")
            else:
                yield reader.line_num, row
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: not CSV: {error}") from error


def _example(row: Mapping[str, object], *, source: str, labels: Sequence[str]) -> Example:
    label = row.get("label")
    if label not in labels:
        raise InputError(f"`label` must be one of {', '.join(labels)}, found {label!r}")
    conversation = conversation_of(row)
    window = Window.of(conversation)
    if not window.message:
        raise InputError("the message is empty")
    turns = sum(message.role == "user" for message in conversation.messages)
    return Example(
        window=window,
        label=str(label),
        language=str(row.get("lang") or detect_language(window.message)),
        source=source,
        group=str(row.get("group") or _own_group(row, window, source)),
        kind=str(row.get("kind") or ""),
        turn=turns,
    )


def _own_group(row: Mapping[str, object], window: Window, source: str) -> str:
    """Return a name that depends on nothing but the row, so that a split stays as it is when rows are added.

    Single messages with the same set of words (Chinese: characters) get the same one, whatever their order, case and
    punctuation.
    """
    if window.alone:
        words = sorted(set(_WORD.findall(window.message.lower()))) or [window.message]
        return hashlib.sha256(" ".join(words).encode()).hexdigest()
    if "id" in row:
        return f"{source}:{row['id']}"
    texts = (window.previous_user, window.previous_reply, window.message)
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def conversation_of(row: Mapping[str, object]) -> Conversation:
    """Return the conversation of a row with `text` or `messages`.

    Raises:
        InputError: it has neither, both, or one of another shape.
    """
    text, messages = row.get("text"), row.get("messages")
    if (text is None) == (messages is None):
        raise InputError(f"expected either `text` or `messages`, found {sorted(row)!r}")
    if text is not None:
        if not isinstance(text, str):
            raise InputError(f"`text` must be a text, found {type(text).__name__}")
        return Conversation.of(text)
    if not isinstance(messages, list):
        raise InputError(f"`messages` must be a list, found {type(messages).__name__}")
    return Conversation.of(messages)
