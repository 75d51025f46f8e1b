"""Labelled messages: reading them from JSONL or CSV, and saying what is wrong with a file, line by line."""

from __future__ import annotations

import csv
import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pointsman.router import Conversation, DataError, InputError, Window, detect_language

__all__ = ["Example", "Findings", "inspect_examples", "read_examples", "read_rows"]


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
        for number, row in read_rows(path):
            try:
                found.append(_example(row, source=path.stem, number=number, labels=labels))
            except InputError as error:
                problems.append(f"{path}:{number}: {error}")
        if problems:
            more = f"\n... and {len(problems) - 20} more" if len(problems) > 20 else ""  # noqa: PLR2004
            raise DataError("\n".join(problems[:20]) + more)
        if not found:
            raise DataError(f"{path} is empty; expected lines of {{\"text\": ..., \"label\": ...}}")
        examples += found
    return examples


def read_rows(path: Path) -> Iterator[tuple[int, Mapping[str, object]]]:
    """Yield line numbers and objects of a JSONL or CSV file; blank lines are passed over.

    Raises:
        DataError: the file cannot be read, is not UTF-8 text, or a line is not a JSON object.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from _csv_rows(path, file) if path.suffix.lower() in {".csv", ".tsv"} else _json_rows(path, file)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start}); convert it, or pass another file") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error


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

    def warnings(self) -> list[str]:
        """Return one sentence per thing worth mending."""
        lines = []
        if self.conflicts:
            text, labels = self.conflicts[0]
            lines.append(f"{len(self.conflicts)} messages carry two labels, e.g. {text[:60]!r}: {' and '.join(labels)}")
        if self.duplicates:
            lines.append(f"{self.duplicates} of {self.n} examples repeat another one")
        rarest, most = min(self.per_label.values()), max(self.per_label.values())
        if rarest * 10 < most:
            name = min(self.per_label, key=self.per_label.__getitem__)
            lines.append(f"labels are unbalanced: {rarest} of {name!r} against {most}; training weighs them equally")
        return lines


def inspect_examples(examples: Sequence[Example]) -> Findings:
    """Return counts, duplicates and conflicts."""
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
    )


def _json_rows(path: Path, lines: Iterable[str]) -> Iterator[tuple[int, Mapping[str, object]]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}:{number}: not JSON: {error}; the line starts {line[:60]!r}") from error
        if not isinstance(row, dict):
            raise DataError(f"{path}:{number}: expected a JSON object, found {type(row).__name__}")
        yield number, row


def _csv_rows(path: Path, lines: Iterable[str]) -> Iterator[tuple[int, Mapping[str, object]]]:
    reader = csv.DictReader(lines, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
    if missing := {"text", "label"} - set(reader.fieldnames or ()):
        raise DataError(f"{path}:1: the header lacks {', '.join(sorted(missing))}; found {reader.fieldnames}")
    try:
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: not CSV: {error}") from error


def _example(row: Mapping[str, object], *, source: str, number: int, labels: Sequence[str]) -> Example:
    label = row.get("label")
    if label not in labels:
        raise InputError(f"`label` must be one of {', '.join(labels)}, found {label!r}")
    conversation = conversation_of(row)
    window = Window.of(conversation)
    if not window.message:
        raise InputError("the message is empty")
    single = len(conversation.messages) == 1
    turns = sum(message.role == "user" for message in conversation.messages)
    own = hashlib.sha256(window.message.encode()).hexdigest()[:16] if single else f"{source}:{row.get('id', number)}"
    return Example(
        window=window,
        label=str(label),
        language=str(row.get("lang") or detect_language(window.message)),
        source=source,
        group=str(row.get("group") or own),
        kind=str(row.get("kind") or ""),
        turn=turns,
    )


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
