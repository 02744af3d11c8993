"""YAML with positions: a bounded tree in which every key and value knows its line and column.

The tree is built from the parser's events, so the limits bite while the text is being read. Scalars resolve
by the core schema of YAML 1.2 (section 10.3): ``on``, ``off``, ``yes`` and ``no`` are text.
"""

from __future__ import annotations

import re
import sys
from typing import Any, Final, NamedTuple, NoReturn

import yaml

from gateway.config.source.problems import MAX_PROBLEMS, ConfigError, Path, Problem, path_text, quote
from gateway.config.source.references import BadReferenceError, Expander
from gateway.config.source.syntax import syntax_problem

MAX_BYTES: Final = 16 * 1024 * 1024
MAX_DEPTH: Final = 64
MAX_NODES: Final = 2_000_000
"""Nodes; every alias counts as all that it repeats."""

_LOADER: Final[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_find_unprintable = re.compile(
    "[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"  # YAML 1.2, section 5.1
).search
_MAX_NUMBER: Final = 400
_NUMBER_START: Final = frozenset("0123456789+-.")
_INT: Final = re.compile(r"[-+]?[0-9]+").fullmatch
_OCTAL_OR_HEX: Final = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+").fullmatch
_FLOAT: Final = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?").fullmatch
_WORDS: Final[dict[str, bool | float | None]] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}


class Scalar:
    """A single value."""

    __slots__ = ("column", "line", "text", "value")

    def __init__(self, text: str, value: str | bool | float | None, line: int, column: int) -> None:
        self.text = text
        """As written, with its references unexpanded: the only form that may be shown."""
        self.value = value
        self.line = line
        self.column = column


class Unresolved(Scalar):
    """A value whose reference could not be resolved: that has been reported, and nothing else is."""

    __slots__ = ()


class Sequence:
    """A list of nodes."""

    __slots__ = ("column", "items", "line")

    def __init__(self, line: int, column: int) -> None:
        self.items: list[Node] = []
        self.line = line
        self.column = column


class Mapping:
    """Keys, always as text, with their nodes."""

    __slots__ = ("column", "entries", "line")

    def __init__(self, line: int, column: int) -> None:
        self.entries: dict[str, Entry] = {}
        self.line = line
        self.column = column


Node = Scalar | Sequence | Mapping


def is_from_reference(node: Node | None) -> bool:
    """Whether a reference brings in the value, or a part of it: which must not be in any message."""
    return isinstance(node, Scalar) and isinstance(node.value, str) and node.value != node.text


class Entry(NamedTuple):
    """A mapping's value, and the position of its key."""

    line: int
    column: int
    node: Node


class Document:
    """A configuration file as a tree; ``problems`` are those that did not keep it from being read."""

    def __init__(self, file: str, root: Mapping, problems: list[Problem]) -> None:
        self.file = file
        self.root = root
        self.problems = problems

    def node(self, path: Path) -> Node | None:
        """The node at a key path, or None."""
        node: Node | None = self.root
        for segment in path:
            node = _child_node(node, segment)
        return node

    def position(self, path: Path) -> tuple[int, int]:
        """Line and column of the key, or of a list's item; for what is missing, of what should hold it."""
        node: Node = self.root
        line, column = node.line, node.column
        for segment in path:
            if isinstance(node, Mapping) and isinstance(segment, str) and segment in node.entries:
                line, column, node = node.entries[segment]
            elif (child := _child_node(node, segment)) is not None:
                node = child
                line, column = node.line, node.column
            else:
                break
        return line, column

    def problem(self, path: Path, message: str) -> Problem:
        """A problem at a key path."""
        line, column = self.position(path)
        return Problem(self.file, line, column, path_text(path), message)

    def plain(self) -> dict[str, Any]:
        """The whole as dictionaries, lists and values, references expanded."""
        data: dict[str, Any] = _plain_value(self.root)
        return data


def parse(text: str, file: str) -> Document:
    """Read a configuration's text. Raises ConfigError where no tree can be made of it."""
    _reject_unprintable(text, file)
    builder = _Builder(file)
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            builder.add(event)
    except yaml.YAMLError as exc:
        unreadable = syntax_problem(exc, text, file)
    else:
        return builder.document()
    # Raised out here, and so without a cause: YAML's own error quotes the line, which may hold a secret.
    raise ConfigError([*builder.problems, unreadable])


def _reject_unprintable(text: str, file: str) -> None:
    if found := _find_unprintable(text):
        at = found.start()
        line, column = text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at)
        message = f"not valid YAML: the character U+{ord(found.group()):04X} is not allowed"
        raise ConfigError([Problem(file, line, column, "", message)])


def _child_node(node: Node | None, segment: str | int) -> Node | None:
    if isinstance(node, Mapping) and isinstance(segment, str):
        entry = node.entries.get(segment)
        return entry.node if entry else None
    if isinstance(node, Sequence) and isinstance(segment, int) and segment < len(node.items):
        return node.items[segment]
    return None


def _plain_value(node: Node) -> Any:
    # Recursion is safe: the tree is at most MAX_DEPTH deep, aliases included.
    if type(node) is Mapping:
        return {
            key: child.value if type(child := entry[2]) is Scalar else _plain_value(child)
            for key, entry in node.entries.items()
        }
    return node.value if isinstance(node, Scalar) else [_plain_value(item) for item in node.items]  # type: ignore[union-attr]


def resolve(text: str) -> str | bool | float | None:
    """What an unquoted scalar means in the core schema of YAML 1.2 (section 10.3.2)."""
    if text in _WORDS:
        return _WORDS[text]
    if text[0] in _NUMBER_START and len(text) <= _MAX_NUMBER:
        if _INT(text):
            return int(text)
        if _OCTAL_OR_HEX(text):
            return int(text, 0)
        if _FLOAT(text):
            return float(text)
    return text


class _Frame:
    """A container under construction."""

    __slots__ = ("anchor", "column", "first", "height", "key", "line", "merge", "merging", "node")

    def __init__(self, node: Sequence | Mapping, anchor: str | None, first: int) -> None:
        self.node = node
        self.anchor = anchor
        self.first = first
        """How many nodes there were before this one."""
        self.height = 1
        self.key: str | None = None
        self.line = self.column = 0
        """The position of the key that waits for its value."""
        self.merge: Entry | None = None
        self.merging = False
        """Whether the key that waits is the merge key."""


class _Anchor(NamedTuple):
    node: Node | None
    """None while the container is still open: an alias to it would be a cycle."""
    size: int
    height: int


_MERGE: Final = "<<"


class _Builder:
    def __init__(self, file: str) -> None:
        self.problems: list[Problem] = []
        self._file = file
        self._root: Node | None = None
        self._stack: list[_Frame] = []
        self._anchors: dict[str, _Anchor] = {}
        self._count = 0
        self._documents = 0
        self._expander = Expander()

    def add(self, event: Any) -> None:
        kind = type(event)
        if kind is yaml.ScalarEvent:
            self._scalar(event)
        elif kind is yaml.MappingStartEvent:
            self._open(event, Mapping(event.start_mark.line + 1, event.start_mark.column + 1))
        elif kind is yaml.MappingEndEvent or kind is yaml.SequenceEndEvent:
            self._close()
        elif kind is yaml.SequenceStartEvent:
            self._open(event, Sequence(event.start_mark.line + 1, event.start_mark.column + 1))
        elif kind is yaml.AliasEvent:
            self._alias(event)
        elif kind is yaml.DocumentStartEvent:
            self._documents += 1
            if self._documents > 1:
                self._fail(event, "a second YAML document begins here; a configuration is one document")

    def document(self) -> Document:
        root = self._root
        if isinstance(root, Mapping):
            return Document(self._file, root, self.problems)
        if root is None or (isinstance(root, Scalar) and root.value is None):
            message = "the file is empty; it needs at least upstreams and apps"
        else:
            message = "the file must be a mapping of keys such as server, upstreams and apps"
        line, column = (root.line, root.column) if root else (1, 1)
        raise ConfigError([*self.problems, Problem(self._file, line, column, "", message)])

    def _scalar(self, event: Any) -> None:
        self._count_nodes(event, 1)
        if event.tag is not None:
            self._reject_tag(event)
        mark = event.start_mark
        line, column = mark.line + 1, mark.column + 1
        text: str = event.value
        frame = self._stack[-1] if self._stack else None
        if frame and frame.key is None and type(frame.node) is Mapping:
            frame.merging = text == _MERGE and event.implicit[0]
            frame.key, frame.line, frame.column = sys.intern(text), line, column
            if event.anchor is not None:
                self._anchors[event.anchor] = _Anchor(Scalar(event.value, event.value, line, column), 1, 0)
            return
        node = self._value(text, resolve(text) if event.implicit[0] else text, line, column)
        if event.anchor is not None:
            self._anchors[event.anchor] = _Anchor(node, 1, 0)
        self._place(node)

    def _value(self, text: str, value: str | bool | float | None, line: int, column: int) -> Scalar:
        if "${" not in text or not isinstance(value, str):
            return Scalar(text, value, line, column)
        try:
            return Scalar(text, self._expander.expand(value), line, column)
        except BadReferenceError as exc:
            self._report(line, column, str(exc))
            return Unresolved(text, text, line, column)

    def _open(self, event: Any, node: Sequence | Mapping) -> None:
        self._count_nodes(event, 1)
        if event.tag is not None:
            self._reject_tag(event)
        if self._awaits_key():
            self._fail(event, "a key must be a single value, not a list or a mapping")
        if len(self._stack) >= MAX_DEPTH:
            self._fail(event, f"nested more than {MAX_DEPTH} levels deep")
        self._stack.append(_Frame(node, event.anchor, self._count - 1))
        if event.anchor is not None:
            self._anchors[event.anchor] = _Anchor(None, 0, 0)

    def _close(self) -> None:
        frame = self._stack.pop()
        node = frame.node
        if frame.merge is not None and isinstance(node, Mapping):
            self._merge(node, frame.merge)
        if frame.anchor is not None:
            self._anchors[frame.anchor] = _Anchor(node, self._count - frame.first, frame.height)
        if self._stack:
            parent = self._stack[-1]
            parent.height = max(parent.height, frame.height + 1)
        self._place(node)

    def _alias(self, event: Any) -> None:
        anchor = self._anchors.get(event.anchor)
        if anchor is None:
            self._fail(event, f"the alias *{event.anchor[:60]} has no anchor before it; a glob must be in quotes")
        if anchor.node is None:
            self._fail(event, f"the alias *{event.anchor[:60]} is inside its own anchor")
        self._count_nodes(event, anchor.size)
        if len(self._stack) + anchor.height > MAX_DEPTH:
            self._fail(event, f"nested more than {MAX_DEPTH} levels deep")
        if self._awaits_key():
            if not isinstance(anchor.node, Scalar):
                self._fail(event, "a key must be a single value, not a list or a mapping")
            frame = self._stack[-1]
            frame.key, frame.merging = anchor.node.text, False
            frame.line, frame.column = event.start_mark.line + 1, event.start_mark.column + 1
            return
        if self._stack:
            parent = self._stack[-1]
            parent.height = max(parent.height, anchor.height + 1)
        self._place(anchor.node)

    def _place(self, node: Node) -> None:
        if not self._stack:
            self._root = node
            return
        frame = self._stack[-1]
        holder = frame.node
        if type(holder) is not Mapping:
            holder.items.append(node)  # type: ignore[union-attr]
            return
        key, entry = frame.key, Entry(frame.line, frame.column, node)
        frame.key = None
        assert key is not None
        if frame.merging:
            if frame.merge is not None:
                self._duplicate(_MERGE, frame.merge, entry)
            frame.merge = frame.merge or entry
            return
        if key in holder.entries:
            self._duplicate(key, holder.entries[key], entry)
        else:
            holder.entries[key] = entry

    def _merge(self, target: Mapping, merge: Entry) -> None:
        """YAML's merge key: the mapping's own keys win, then the earlier of the merged ones."""
        sources = merge.node.items if isinstance(merge.node, Sequence) else [merge.node]
        for source in sources:
            if isinstance(source, Mapping):
                for key, entry in source.entries.items():
                    target.entries.setdefault(key, entry)
            else:
                message = "<< takes a mapping or a list of mappings, usually an alias such as *base"
                self._report(merge.line, merge.column, message)

    def _awaits_key(self) -> bool:
        return bool(self._stack) and self._stack[-1].key is None and isinstance(self._stack[-1].node, Mapping)

    def _count_nodes(self, event: Any, size: int) -> None:
        self._count += size
        if self._count > MAX_NODES:
            self._fail(event, f"more than {MAX_NODES:,} values, aliases counted as what they repeat")

    def _reject_tag(self, event: Any) -> None:
        tag = event.tag.replace("tag:yaml.org,2002:", "!!", 1)
        mark = event.start_mark
        self._report(mark.line + 1, mark.column + 1, f"the tag {quote(tag)} is not allowed: remove it")

    def _duplicate(self, key: str, first: Entry, second: Entry) -> None:
        message = f"duplicate key {quote(key)} (lines {first.line} and {second.line})"
        self._report(second.line, second.column, message, (*self._path(), key))

    def _report(self, line: int, column: int, message: str, path: Path | None = None) -> None:
        text = path_text(self._path() if path is None else path)
        self.problems.append(Problem(self._file, line, column, text, message))
        if len(self.problems) > MAX_PROBLEMS:
            raise ConfigError(self.problems)

    def _fail(self, event: Any, message: str) -> NoReturn:
        mark = event.start_mark
        self.problems.append(Problem(self._file, mark.line + 1, mark.column + 1, "", message))
        raise ConfigError(self.problems)

    def _path(self) -> Path:
        path: list[str | int] = []
        for frame in self._stack:
            if isinstance(frame.node, Sequence):
                path.append(len(frame.node.items))
            elif frame.key is not None:
                path.append(frame.key)
        return tuple(path)
