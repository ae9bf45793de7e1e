"""Regular expressions from people, matched in linear time: no pattern can make its caller hang, as `re` would let it.

A subset of Python's syntax: characters, `.`, `\\d \\w \\s` and the like, `[a-z]`, groups, `|`, `* + ? {2,5}`, `^` and
`$` of a line, and `(?i)` at the start. The pattern becomes a nondeterministic automaton, whose sets of states are
remembered as they are met. Each character of the text takes one step; the longest takes about 0.05 ms.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Callable, NamedTuple, Optional

MAX_LENGTH = 200  # characters of a pattern
MAX_STATES = 1000  # of the automaton: counted repeats multiply
MAX_REPEAT = 100
_REMEMBERED = 20_000  # states in all sets, then it forgets them: a text can meet a new set at each character
_CLASSES = {"d": r"\d", "w": r"\w", "s": r"\s", "D": r"\D", "W": r"\W", "S": r"\S"}
_CONTROLS = {"t": "\t", "r": "\r", "f": "\f", "v": "\v"}
_COUNTED = re.compile(r"\{(\d{1,4})(?:(,)(\d{0,4}))?\}", re.ASCII)
_Test = Callable[[str], object]


class PatternError(ValueError):
    """The message says what is wrong, and where."""


class _Node(NamedTuple):
    """A state: it reads one character (`test`) or none (`edge`: '', '^' or '$'), then goes on at `following`."""

    test: Optional[_Test]
    edge: str
    following: list[int]


class Pattern:
    """A compiled pattern. Raises PatternError."""

    def __init__(self, text: str) -> None:
        if len(text) > MAX_LENGTH:
            raise PatternError(f"has {len(text)} characters; at most {MAX_LENGTH} are allowed.")
        if not text:
            raise PatternError("is empty.")
        ignores_case = text.startswith("(?i)")
        self._nodes: list[_Node] = []
        reader = _Reader(text[4:] if ignores_case else text, self._nodes, ignores_case=ignores_case)
        start, self._end = reader.whole()
        # Other states only lead on to these.
        self._kept = {number for number, node in enumerate(self._nodes) if node.test is not None or node.edge == "$"}
        self._kept.add(self._end)
        self._start = self._spread({start}, after_line_end=True)
        self._again = self._spread({start}, after_line_end=False)
        self._after: dict[int, frozenset[int]] = {}  # by state, the states after the character that it reads
        self._readers: dict[_Test, set[int]] = {}  # the states with each test
        for number, node in enumerate(self._nodes):
            if node.test is not None:
                self._after[number] = self._spread(set(node.following))
                self._readers.setdefault(node.test, set()).add(number)
        self._steps: dict[tuple[frozenset[int], str], frozenset[int]] = {}
        self._readable: dict[str, frozenset[int]] = {}  # the states that read a character
        self._remembered = 0

    @property
    def size(self) -> int:
        """The number of states: a step costs time for each."""
        return len(self._nodes)

    def finds(self, text: str) -> bool:
        """Whether the pattern matches somewhere in the text. It never matches a line end."""
        states = self._start
        for character in f"{text}\n":
            if self._end in states:
                return True
            key = states, character
            after = self._steps.get(key)
            if after is None:
                self._forget()
                after = self._steps[key] = self._step(states, character)
                self._remembered += len(after) + 1
            states = after
            if states is _FOUND:
                return True
        return False

    def _step(self, states: frozenset[int], character: str) -> frozenset[int]:
        if character == "\n":
            at_end = self._spread(set(states), before_line_end=True)
            return _FOUND if self._end in at_end else self._start
        readable = self._readable.get(character)
        if readable is None:
            found = (states for test, states in self._readers.items() if test(character))
            readable = self._readable[character] = frozenset[int]().union(*found)
            self._remembered += len(readable) + 1
        return self._again.union(*(self._after[state] for state in states & readable))

    def _forget(self) -> None:
        """Before a step: keep the memory small."""
        if self._remembered >= _REMEMBERED:
            self._steps.clear()
            self._readable.clear()
            self._remembered = 0

    def _spread(
        self, states: set[int], *, after_line_end: bool = False, before_line_end: bool = False
    ) -> frozenset[int]:
        """Of these states and all that follow them without a character, those that read one or end something."""
        found, left = set(states), list(states)
        while left:
            node = self._nodes[left.pop()]
            free = not node.edge or (node.edge == "^" and after_line_end) or (node.edge == "$" and before_line_end)
            if node.test is None and free:
                new = [one for one in node.following if one not in found]
                found.update(new)
                left += new
        return frozenset(found & self._kept)


_FOUND = frozenset({-1})


class _Reader:
    """Reads a pattern into nodes. A part is the pair of its first and its last node."""

    def __init__(self, text: str, nodes: list[_Node], *, ignores_case: bool) -> None:
        self._text, self._nodes, self._flags = text, nodes, re.IGNORECASE if ignores_case else 0
        self._tests: dict[str, _Test] = {}
        self._at = self._depth = 0

    def whole(self) -> tuple[int, int]:
        part = self._choice()
        if self._at < len(self._text):
            raise self._error("has a ) without its (")
        return part

    def _error(self, what: str) -> PatternError:
        return PatternError(f"{what}, at character {min(self._at, len(self._text)) + 1}.")

    def _node(self, test: Optional[_Test] = None, edge: str = "") -> int:
        if len(self._nodes) >= MAX_STATES:
            raise PatternError("repeats too much. Use smaller repeat counts.")
        self._nodes.append(_Node(test, edge, []))
        return len(self._nodes) - 1

    def _link(self, first: int, *following: int) -> None:
        self._nodes[first].following.extend(following)

    def _choice(self) -> tuple[int, int]:
        start, end = self._node(), self._node()
        while True:
            first, last = self._sequence()
            self._link(start, first)
            self._link(last, end)
            if self._text[self._at : self._at + 1] != "|":
                return start, end
            self._at += 1

    def _sequence(self) -> tuple[int, int]:
        start = end = self._node()
        while self._at < len(self._text) and self._text[self._at] not in "|)":
            begun = self._at
            first, last = self._atom()
            first, last = self._repeated(begun, first, last)
            self._link(end, first)
            end = last
        return start, end

    def _atom(self) -> tuple[int, int]:
        character = self._text[self._at]
        if character == "(":
            return self._group()
        if character in "*+?{":
            raise self._error(f"has nothing before {character} to repeat. Write \\{character} for the character")
        if character in "^$":
            self._at += 1
            start, end = self._node(edge=character), self._node()
        else:
            start, end = self._node(self._character()), self._node()
        self._link(start, end)
        return start, end

    def _group(self) -> tuple[int, int]:
        self._at += 1
        if self._text[self._at : self._at + 1] == "?":
            if self._text[self._at + 1 : self._at + 2] != ":":
                raise self._error("uses (?, which is not supported, except (?:…) and (?i) at the start")
            self._at += 2
        self._depth += 1
        if self._depth > 20:
            raise self._error("has more than 20 groups inside each other")
        part = self._choice()
        self._depth -= 1
        if self._text[self._at : self._at + 1] != ")":
            raise self._error("has a ( without its )")
        self._at += 1
        return part

    def _repeated(self, begun: int, first: int, last: int) -> tuple[int, int]:
        if self._text[begun] in "^$" and self._text[self._at : self._at + 1] in (*"*+?{",):
            raise self._error(f"repeats a {self._text[begun]}")
        least, most = self._count()
        if (least, most) == (1, 1):
            return first, last
        after = self._at
        copies = [(first, last)]
        for _ in range(1, max(least, 1 if most is None else most)):
            self._at = begun
            copies.append(self._atom())
        self._at = after
        if self._text[self._at : self._at + 1] and self._text[self._at] in "*+?{":
            raise self._error("repeats a repetition. Put the inner one into a group")
        start, end = self._node(), self._node()
        before = start
        for number, (one, other) in enumerate(copies):
            if number >= least:
                self._link(before, end)
            self._link(before, one)
            before = other
        self._link(before, end)
        if most is None:
            self._link(before, copies[-1][0])
        return start, end

    def _count(self) -> tuple[int, Optional[int]]:
        """How often the last atom may come: least and most. A `?` after it (lazy) changes nothing."""
        sign = self._text[self._at : self._at + 1]
        simple: dict[str, tuple[int, Optional[int]]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}
        if sign in simple and sign:
            found = simple[sign]
            self._at += 1
        elif sign == "{":
            match = _COUNTED.match(self._text, self._at)
            if match is None:
                raise self._error("has a { that does not begin a repeat count. Write \\{ for the character")
            least = int(match[1])
            most = least if not match[2] else int(match[3]) if match[3] else None
            if max(least, most or 0) > MAX_REPEAT or (most is not None and most < least) or most == 0:
                raise self._error(f"has an invalid repeat count; at most {MAX_REPEAT} are allowed")
            found = least, most
            self._at = match.end()
        else:
            return 1, 1
        if self._text[self._at : self._at + 1] == "?":
            self._at += 1
        return found

    def _character(self) -> _Test:
        """The test of one character: a set, a class or itself. `re` does it, on one character at a time."""
        begun = self._at
        character = self._text[begun]
        if character == "[":
            source = self._set()
        elif character == "\\":
            source = self._escaped()
        else:
            self._at += 1
            source = "." if character == "." else re.escape(character)
        try:
            if source not in self._tests:
                self._tests[source] = re.compile(source, self._flags).fullmatch
            return self._tests[source]
        except re.error as error:
            self._at = begun
            raise self._error(f"is not valid: {error.msg}") from None

    def _escaped(self) -> str:
        letter = self._text[self._at + 1 : self._at + 2]
        if not letter:
            raise self._error("ends with a backslash")
        if letter.isalnum() and letter not in _CLASSES and letter not in _CONTROLS:
            raise self._error(f"uses \\{letter}, which is not supported")
        self._at += 2
        return _CLASSES.get(letter) or re.escape(_CONTROLS.get(letter, letter))

    def _set(self) -> str:
        text, at = self._text, self._at + 1
        source = "["
        if text[at : at + 1] == "^":
            source, at = "[^", at + 1
        is_first = True
        while at < len(text) and (is_first or text[at] != "]"):
            size = 2 if text[at] == "\\" else 1
            # As itself: some day Python may read [ and signs such as && or -- as more than themselves.
            is_special = text[at] in "[&~|]" or (text[at] == "-" and source[-1] == "-")
            source += ("\\" if is_special else "") + text[at : at + size]
            at, is_first = at + size, False
        if at >= len(text):
            raise self._error("has a [ without its ]")
        self._at = at + 1
        return source + "]"


@lru_cache(maxsize=64)
def compiled(text: str) -> Pattern:
    """Raises PatternError."""
    return Pattern(text)
