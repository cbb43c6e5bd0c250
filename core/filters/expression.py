"""The language of filter conditions: `class=shirt and (price<10 or not sold=yes)`.

    expression = term, or several joined by `and` (binds more tightly) and `or`
    term       = condition | not term | (expression)
    condition  = name operator value | name [not] in (value, …) | exists name
               | name [not] contains value | place [not] near latitude,longitude,distance

Operators are = != < <= > >=. Keywords are written in lower or upper case. A value ends before `and` or `or` if a
condition follows there; a value in double quotes may hold anything, with \\" and \\\\ for these two characters.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from simile.core.errors import BadSetting

MAX_EXPRESSION_LENGTH = 4096  # characters
MAX_CONDITIONS = 300  # in one expression; SQLite parses an expression of at most 1,000 levels
MAX_DEPTH = 20  # of parentheses and `not`

# Possessive quantifiers keep every match linear in the length of the text.
_QUOTED = r'"((?:[^"\\]|\\.)*+)"'
_BARE_NAME = r"([^\s!<>=()\"][^\s!<>=]*+(?:\s++(?!(?:and|or)[\s(])[^\s!<>=]++){0,50}?)"
_NAME = rf"\s*+(?:{_QUOTED}|{_BARE_NAME})"
_FLAGS = re.DOTALL | re.IGNORECASE
_END = r"(?=\s*+(?:$|\)|(?:and|or)[\s(]))"  # of a condition
_COMPARISON = re.compile(rf"{_NAME}\s*+(!=|<=|>=|=|<|>|(?<=\s)(?:not\s++)?(?:in\s*+(?=\()|contains\s|near\s))", _FLAGS)
_EXISTS = re.compile(rf"\s*+exists\s++(?:{_QUOTED}|{_BARE_NAME}){_END}", _FLAGS)
_NOT = re.compile(r"\s*+not(?=[\s(])", _FLAGS)
_OPEN, _CLOSE = re.compile(r"\s*+\("), re.compile(r"\s*+\)")
_QUOTED_VALUE = re.compile(rf"\s*+{_QUOTED}{_END}", _FLAGS)
_VALUE_END = re.compile(r"[()]|\s(?:and|or)(?=[\s(])", _FLAGS)
_LISTED_VALUE = re.compile(rf"\s*+(?:{_QUOTED}|([^,()\"]++))\s*+([,)])", _FLAGS)
_STARTS_TERM = re.compile(rf"(?:\s*+(?:not(?=[\s(])|\())*+(?:{_EXISTS.pattern}|{_COMPARISON.pattern})", _FLAGS)


class Condition(NamedTuple):
    """A condition on one name: an operator of = != < <= > >= contains exists near, and a value."""

    name: str
    operator: str
    value: str

    def __str__(self) -> str:
        """Return the condition as a user writes it."""
        if self.operator == "exists":
            return f"exists {self.name}"
        space = " " if self.operator.isalpha() else ""
        return f"{self.name}{space}{self.operator}{space}{self.value}"


@dataclass(frozen=True)
class Negation:
    """What does not satisfy the part."""

    part: Expression


@dataclass(frozen=True)
class Combination:
    """What satisfies all parts (`and`) or at least one of them (`or`)."""

    operator: Literal["and", "or"]
    parts: tuple[Expression, ...]


Expression = Condition | Negation | Combination


def format_condition(condition: Condition) -> str:
    """Return the text of a condition, which `parse_expression` reads as this condition whatever its name and value."""
    name, operator, value = condition
    quoted = Condition(_quote(name), operator, _quote(value))
    return str(quoted._replace(value="") if operator == "exists" else quoted)


def iterate_conditions(expression: Expression) -> Iterator[Condition]:
    """Yield the conditions of an expression, from left to right."""
    if isinstance(expression, Condition):
        yield expression
    elif isinstance(expression, Negation):
        yield from iterate_conditions(expression.part)
    else:
        for part in expression.parts:
            yield from iterate_conditions(part)


def parse_expression(text: str) -> Expression:
    """Parse the text of a filter.

    Args:
        text: For example `price<10`, which gives Condition("price", "<", "10").

    Returns:
        The expression. `a in (x, y)` becomes `a=x or a=y`.

    Raises:
        BadSetting: The text is no expression; the message says at which part.
    """
    return _Parser(text).parse()


class _Parser:
    """A recursive descent parser of one text."""

    def __init__(self, text: str) -> None:
        self._text, self._position, self._depth, self._conditions = text, 0, 0, 0

    def parse(self) -> Expression:
        if len(self._text) > MAX_EXPRESSION_LENGTH:
            raise BadSetting(
                f"where can't have {len(self._text):,} characters. Write at most {MAX_EXPRESSION_LENGTH:,}."
            )
        expression = self._parse_combination("or")
        if self._text[self._position :].strip():
            raise self._make_error("`and` or `or` is missing")
        return expression

    def _parse_combination(self, operator: Literal["and", "or"]) -> Expression:
        parts = [self._parse_operand(operator)]
        keyword = re.compile(rf"\s*+{operator}(?=[\s(])", _FLAGS)
        while self._skip(keyword):
            parts.append(self._parse_operand(operator))
        return parts[0] if len(parts) == 1 else Combination(operator, tuple(parts))

    def _parse_operand(self, operator: Literal["and", "or"]) -> Expression:
        return self._parse_combination("and") if operator == "or" else self._parse_term()

    def _parse_term(self) -> Expression:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._make_error(f"there are more than {MAX_DEPTH} levels of parentheses and `not`")
        if self._skip(_NOT):
            term: Expression = Negation(self._parse_term())
        elif self._skip(_OPEN):
            term = self._parse_combination("or")
            if not self._skip(_CLOSE):
                raise self._make_error("a ) is missing")
        else:
            term = self._parse_condition()
        self._depth -= 1
        return term

    def _parse_condition(self) -> Expression:
        self._count_condition()
        if match := _EXISTS.match(self._text, self._position):
            self._position = match.end()
            return Condition(_get_text(match[1], match[2]), "exists", "")
        match = _COMPARISON.match(self._text, self._position)
        if match is None:
            raise self._make_error()
        self._position = match.end()
        name, (*negation, operator) = _get_text(match[1], match[2]), match[3].lower().split()
        if operator == "in":
            condition: Expression = self._parse_list(name)
        else:
            condition = Condition(name, operator, self._parse_value())
        return Negation(condition) if negation else condition

    def _count_condition(self) -> None:
        self._conditions += 1
        if self._conditions > MAX_CONDITIONS:
            raise self._make_error(f"there are more than {MAX_CONDITIONS} conditions")

    def _parse_list(self, name: str) -> Expression:
        """Parse the values of `in (…)`."""
        self._skip(_OPEN)
        values: list[Expression] = []
        end = ","
        while end == ",":
            match = _LISTED_VALUE.match(self._text, self._position)
            if match is None:
                raise self._make_error("write the values of `in` as (shirt, dress)")
            self._position, end = match.end(), match[3]
            values.append(Condition(name, "=", _get_text(match[1], match[2])))
            self._count_condition()
        return values[0] if len(values) == 1 else Combination("or", tuple(values))

    def _parse_value(self) -> str:
        if match := _QUOTED_VALUE.match(self._text, self._position):
            self._position = match.end()
            return _get_text(match[1], None)
        start, end = self._position, self._find_value_end()
        self._position = end
        return self._text[start:end].strip()

    def _find_value_end(self) -> int:
        """Return where a value without quotes ends. Its own parentheses are in pairs: `title=Sunset (2)`."""
        open_count = 0
        for match in _VALUE_END.finditer(self._text, self._position):
            if match[0] == "(":
                open_count += 1
            elif match[0] == ")":
                if open_count == 0 and self._depth > 1:
                    return match.start()
                open_count = max(0, open_count - 1)
            elif open_count == 0 and _STARTS_TERM.match(self._text, match.end()):
                return match.start()
        return len(self._text)

    def _skip(self, pattern: re.Pattern[str]) -> bool:
        """Move behind the pattern; return whether it is there."""
        match = pattern.match(self._text, self._position)
        if match:
            self._position = match.end()
        return match is not None

    def _make_error(self, reason: str | None = None) -> BadSetting:
        rest = self._text[self._position :].strip()
        start = f"where can't be {self._text[:200]!r}"
        if reason is not None:
            return BadSetting(f"{start}: {reason} {f'before {rest[:60]!r}' if rest else 'at its end'}.")
        part = f": {rest[:60]!r} is no condition" if rest != self._text.strip() else ""
        return BadSetting(f"{start}{part}. Write a name, one of = != < <= > >=, and a value: class=shirt.")


def _quote(text: str) -> str:
    if re.fullmatch(r"\w[\w.:-]*", text) and text.lower() not in ("and", "or", "not", "exists"):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _get_text(quoted: str | None, bare: str | None) -> str:
    if quoted is None:
        return (bare or "").strip()
    return re.sub(r"\\(.)", r"\1", quoted, flags=re.DOTALL)
