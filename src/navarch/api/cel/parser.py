"""The parser: tokens to a tree, by operator precedence, expanding macros on the way.

Errors carry the texts of upstream's generated parser, because users and tests read them in API
responses. After a syntax error only the simplest repair is tried (leaving out one token).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, NoReturn

from navarch.api.cel.ast import Call, Entry, Expr, Ident, ListExpr, Literal, MapExpr, Select
from navarch.api.cel.errors import CompileError, Issue
from navarch.api.cel.functions import Macro
from navarch.api.cel.lexer import Token, tokenize, unquote
from navarch.api.cel.macros import MacroContext, MacroError
from navarch.api.cel.values import INT_MAX, INT_MIN, UINT_MAX, UInt

MAX_CODE_POINTS = 100_000
MAX_DEPTH = 250
MAX_ISSUES = 100
_RESERVED = """as break const continue else false for function if import in let loop package
namespace null return true var void while"""
RESERVED = frozenset(_RESERVED.split())
_BINARY = {"*": 5, "/": 5, "%": 5, "+": 4, "-": 4}
_BINARY |= dict.fromkeys(("==", "!=", "<", "<=", ">", ">=", "in"), 3)
_BINARY |= {"&&": 2, "||": 1}
_OPERATORS = {op: "@in" if op == "in" else f"_{op}_" for op in _BINARY}
_STARTS = frozenset(("[", "{", "(", ".", "-", "!", "true", "false", "null", "name"))
_STARTS |= {"float", "int", "uint", "string"}
_CONTINUES = frozenset((*_BINARY, ".", "[", "?"))
"""What may come behind a complete operand."""


class _Expected(NamedTuple):
    """What may come next, and how upstream's parser lists it."""

    kinds: frozenset[str]
    text: str


def _expected(*extra: str) -> _Expected:
    kinds = _STARTS | set(extra)
    symbols = [f"'{symbol}'" for symbol in "[]{}().,-!?" if symbol in kinds]
    words = "'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER"
    return _Expected(kinds, f"{{{', '.join(symbols)}, {words}}}")


_OPERAND, _ARGUMENT, _INDEX = _expected(), _expected(")"), _expected("?")
_ELEMENT, _ENTRY = _expected("]", ",", "?"), _expected("}", ",", "?")
_FIELD = _Expected(frozenset("},?") | {"name"}, "{'}', ',', '?', IDENTIFIER, ESC_IDENTIFIER}")
_NAME = _Expected(frozenset(("name",)), "{IDENTIFIER, ESC_IDENTIFIER}")


class Issues:
    """The complaints about one text, in the order of their places."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._found: list[Issue] = []
        self._omitted = 0

    def __bool__(self) -> bool:
        return bool(self._found)

    def report(self, position: int, message: str) -> None:
        """Add a complaint; position -1 is the text as a whole."""
        if len(self._found) >= MAX_ISSUES:
            self._omitted += 1
        elif position < 0:
            self._found.append(Issue(-1, 0, message, ""))
        else:
            line_start = self._text.rfind("\n", 0, position) + 1
            line = self._text.count("\n", 0, position) + 1
            source = self._text[line_start:].partition("\n")[0]
            self._found.append(Issue(line, position - line_start + 1, message, source))

    def raise_if_any(self) -> None:
        if self._found:
            ordered = sorted(self._found, key=lambda issue: (issue.line, issue.column))
            raise CompileError(ordered, self._omitted)


class _SyntaxStop(Exception):
    """Parsing cannot go on; the issue has been reported."""


class Parser:
    """Parses one text. `macros` is keyed by (name, number of arguments, whether a member)."""

    def __init__(
        self, text: str, macros: Mapping[tuple[str, int, bool], Macro], *, optionals: bool = True
    ) -> None:
        self.issues = Issues(text)
        self._text = text
        self._macros = macros
        self._optionals = optionals
        self._awaited: list[frozenset[str]] = []
        self._tokens: list[Token] = []
        self._next = 0

    def parse(self) -> Expr:
        """The tree. Raises CompileError."""
        if len(self._text) > MAX_CODE_POINTS:
            self.issues.report(
                -1,
                f"expression code point size exceeds limit: size: {len(self._text)}, "
                f"limit {MAX_CODE_POINTS}",
            )
            self.issues.raise_if_any()
        self._tokens = tokenize(self._text, self.issues.report)
        root: Expr | None = None
        try:
            root = self._expression("end")
            if (token := self._tokens[self._next]).kind != "end":
                lonely = self._tokens[self._next + 1].kind == "end"
                how = "extraneous" if lonely else "mismatched"
                self._syntax(token, f"{how} input '{token.text}' expecting <EOF>")
        except _SyntaxStop:
            pass
        self.issues.raise_if_any()
        assert root is not None
        return root

    def _report(self, token: Token, message: str) -> None:
        self.issues.report(token.position, f"Syntax error: {message}")

    def _syntax(self, token: Token, message: str) -> NoReturn:
        self._report(token, message)
        raise _SyntaxStop

    def _no_alternative(self, first: Token) -> NoReturn:
        """The next token cannot come behind `first`."""
        token = self._tokens[self._next]
        end = token.position + (len(token.text) if token.kind != "end" else 0)
        seen = self._text[first.position : end].rstrip() if token.kind == "end" else ""
        seen = seen or self._text[first.position : end]
        self._syntax(token, f"no viable alternative at input '{seen}'")

    def _accept(self, kind: str) -> Token | None:
        token = self._tokens[self._next]
        if token.kind != kind:
            return None
        self._next += 1
        return token

    def _begin(self, expected: _Expected) -> None:
        """Make sure that something expected comes next, leaving out one token if that helps."""
        token = self._tokens[self._next]
        if token.kind in expected.kinds:
            return
        if token.kind == "end" or self._tokens[self._next + 1].kind not in expected.kinds:
            self._syntax(token, f"mismatched input '{token.text}' expecting {expected.text}")
        self._report(token, f"extraneous input '{token.text}' expecting {expected.text}")
        self._next += 1

    def _expect(self, kind: str) -> Token:
        """Take this token; if it is not there, leave out one or act as if it were."""
        token = self._tokens[self._next]
        if token.kind == kind:
            self._next += 1
            return token
        if token.kind != "end" and self._tokens[self._next + 1].kind == kind:
            self._report(token, f"extraneous input '{token.text}' expecting '{kind}'")
            self._next += 2
            return self._tokens[self._next - 1]
        follows = _STARTS if kind == ":" else _CONTINUES | self._awaited[-1]
        if token.kind not in follows:
            self._syntax(token, f"mismatched input '{token.text}' expecting '{kind}'")
        self._report(token, f"missing '{kind}' at '{token.text}'")
        return token

    def _more(self, close: str, starts: frozenset[str]) -> bool:
        """Behind an element: whether another one follows its comma."""
        token = self._tokens[self._next]
        if token.kind not in (close, ","):
            expected = f"expecting {{'{close}', ','}}"
            if token.kind == "end" or self._tokens[self._next + 1].kind not in (close, ","):
                self._syntax(token, f"mismatched input '{token.text}' {expected}")
            self._report(token, f"extraneous input '{token.text}' {expected}")
            self._next += 1
        return bool(self._accept(",")) and self._tokens[self._next].kind in starts

    def _limited(self, expr: Expr) -> Expr:
        if expr.depth > MAX_DEPTH:
            self._too_deep()
        return expr

    def _too_deep(self) -> NoReturn:
        self.issues.report(-1, f"expression recursion limit exceeded: {MAX_DEPTH}")
        raise _SyntaxStop

    def _expression(self, *awaited: str) -> Expr:
        """expr: conditionalOr ['?' conditionalOr ':' expr]; the else-branches form a loop.

        `awaited` are the tokens that may end it.
        """
        self._awaited.append(frozenset(awaited))
        if len(self._awaited) > MAX_DEPTH:
            self._too_deep()
        pending: list[tuple[Token, Expr, Expr]] = []
        value = self._binary(1)
        while (question := self._accept("?")) is not None:
            self._awaited.append(frozenset(":"))
            then = self._binary(1)
            self._expect(":")
            self._awaited.pop()
            pending.append((question, value, then))
            value = self._binary(1)
        for question, condition, then in reversed(pending):
            call = self._call(question.position, "_?_:_", None, [condition, then, value])
            value = self._limited(call)
        self._awaited.pop()
        return value

    def _binary(self, minimum: int) -> Expr:
        left = self._unary()
        while (power := _BINARY.get((token := self._tokens[self._next]).kind, 0)) >= minimum:
            self._next += 1
            if power <= 2:
                terms = [left, self._binary(power + 1)]
                while self._accept(token.kind):
                    terms.append(self._binary(power + 1))
                left = Call(token.position, _OPERATORS[token.kind], terms)
            else:
                operands = [left, self._binary(power + 1)]
                left = Call(token.position, _OPERATORS[token.kind], operands)
            self._limited(left)
        return left

    def _unary(self) -> Expr:
        self._begin(_OPERAND)
        first = self._tokens[self._next]
        if first.kind != "!" and first.kind != "-":
            return self._member()
        if first.kind == "-" and self._tokens[self._next + 1].kind in ("int", "float"):
            return self._member()
        count = 0
        while self._accept(first.kind):
            count += 1
        if first.kind == "!":
            self._begin(_OPERAND)
        elif self._tokens[self._next].kind not in _STARTS - {"-", "!"}:
            self._no_alternative(self._tokens[self._next - 1])
        operand = self._member(signed=first.kind == "!")
        if count % 2 == 0:
            return operand
        return self._limited(Call(first.position, f"{first.kind}_", [operand]))

    def _member(self, signed: bool = True) -> Expr:
        value = self._primary(signed)
        while True:
            token = self._tokens[self._next]
            if token.kind == ".":
                self._next += 1
                value = self._selection(token, value)
            elif token.kind == "[":
                self._next += 1
                self._begin(_INDEX)
                optional = self._optional_mark()
                index = self._expression("]")
                self._expect("]")
                function = "_[?_]" if optional else "_[_]"
                value = Call(token.position, function, [value, index])
            else:
                return value
            self._limited(value)

    def _selection(self, dot: Token, operand: Expr) -> Expr:
        optional = self._optional_mark()
        token = self._tokens[self._next]
        if token.kind == "backtick":
            self.issues.report(token.position, "unsupported syntax: '`'")
        elif optional:
            self._begin(_NAME)
            token = self._tokens[self._next]
        elif token.kind != "name":
            if token.kind in ("true", "false", "null"):
                self._syntax(token, f"mismatched input '{token.text}' expecting IDENTIFIER")
            self._no_alternative(dot)
        self._next += 1
        if optional:
            field = Literal(token.position, token.text)
            return Call(dot.position, "_?._", [operand, field])
        if (bracket := self._accept("(")) is not None:
            return self._call(bracket.position, token.text, operand, self._arguments())
        return Select(dot.position, operand, token.text)

    def _optional_mark(self) -> bool:
        token = self._accept("?")
        if token is not None and not self._optionals:
            self.issues.report(token.position, "unsupported syntax '?'")
        return token is not None

    def _arguments(self) -> list[Expr]:
        self._begin(_ARGUMENT)
        if self._accept(")"):
            return []
        arguments = [self._expression(")", ",")]
        while self._accept(","):
            arguments.append(self._expression(")", ","))
        self._expect(")")
        return arguments

    def _primary(self, signed: bool) -> Expr:
        token = self._tokens[self._next]
        kind = token.kind
        self._next += 1
        negative = signed and self._tokens[self._next].kind in ("int", "float")
        if kind == "!" or (kind == "-" and not negative):
            self._no_alternative(token)
        match kind:
            case "(":
                value = self._expression(")")
                self._expect(")")
                return value
            case "[":
                return self._list(token)
            case "{":
                return self._map(token)
            case "name" | ".":
                return self._name(token)
            case "true" | "false":
                return Literal(token.position, kind == "true")
            case "null":
                return Literal(token.position, None)
            case "string":
                try:
                    return Literal(token.position, unquote(token.text))
                except ValueError as error:
                    self.issues.report(token.position, str(error))
                    return Literal(token.position, "")
        if kind == "-":
            number = self._tokens[self._next]
            self._next += 1
            return self._number(token.position, number, "-")
        return self._number(token.position, token, "")

    def _number(self, position: int, token: Token, sign: str) -> Expr:
        text = token.text
        if token.kind == "float":
            value = float(sign + text)
            if value in (float("inf"), float("-inf")):
                self.issues.report(position, "invalid double literal")
            return Literal(position, value)
        digits = text.rstrip("uU")
        # The longest numeral that fits has 20 digits; int() itself refuses huge decimal texts.
        number = UINT_MAX + 1
        if len(digits.lstrip("0x")) <= 20:
            number = int(sign + digits, 16 if digits.startswith("0x") else 10)
        if token.kind == "uint":
            if number > UINT_MAX:
                self.issues.report(position, "invalid uint literal")
            return Literal(position, UInt(number))
        if not INT_MIN <= number <= INT_MAX:
            self.issues.report(position, "invalid int literal")
        return Literal(position, number)

    def _name(self, token: Token) -> Expr:
        prefix = ""
        if token.kind == ".":
            prefix = "."
            dot, token = token, self._tokens[self._next]
            if token.kind != "name":
                self._no_alternative(dot)
            self._next += 1
        if (brace := self._struct_brace()) is not None:
            return self._struct(prefix + token.text, brace)
        if token.text in RESERVED:
            self.issues.report(token.position, f"reserved identifier: {token.text}")
        if (bracket := self._accept("(")) is not None:
            return self._call(bracket.position, prefix + token.text, None, self._arguments())
        return Ident(token.position, prefix + token.text)

    def _struct_brace(self) -> int | None:
        """The index of the `{` if the name just read begins `a.b.C{`, else None."""
        index = self._next
        while self._tokens[index].kind == "." and self._tokens[index + 1].kind == "name":
            index += 2
        return index if self._tokens[index].kind == "{" else None

    def _struct(self, name: str, brace: int) -> Expr:
        name += "".join(token.text for token in self._tokens[self._next : brace])
        self._next = brace + 1
        entries: list[Entry] = []
        self._begin(_FIELD)
        more = self._tokens[self._next].kind not in ("}", ",")
        while more:
            optional = self._optional_mark()
            self._begin(_NAME)
            field = self._expect("name")
            colon = self._expect(":")
            value = self._expression("}", ",")
            entries.append(Entry(colon.position, None, field.text, value, optional))
            more = self._more("}", frozenset(("name", "?")))
        if not entries:
            self._accept(",")
        self._expect("}")
        return self._limited(MapExpr(self._tokens[brace].position, entries, name))

    def _list(self, bracket: Token) -> Expr:
        elements: list[Expr] = []
        optional: set[int] = set()
        self._begin(_ELEMENT)
        more = self._tokens[self._next].kind not in ("]", ",")
        while more:
            if self._optional_mark():
                optional.add(len(elements))
            elements.append(self._expression("]", ","))
            more = self._more("]", _STARTS | {"?"})
        if not elements:
            self._accept(",")
        self._expect("]")
        return self._limited(ListExpr(bracket.position, elements, frozenset(optional)))

    def _map(self, bracket: Token) -> Expr:
        entries: list[Entry] = []
        self._begin(_ENTRY)
        more = self._tokens[self._next].kind not in ("}", ",")
        while more:
            optional = self._optional_mark()
            key = self._expression(":")
            colon = self._expect(":")
            value = self._expression("}", ",")
            entries.append(Entry(colon.position, key, "", value, optional))
            more = self._more("}", _STARTS | {"?"})
        if not entries:
            self._accept(",")
        self._expect("}")
        return self._limited(MapExpr(bracket.position, entries))

    def _call(self, position: int, function: str, target: Expr | None, args: list[Expr]) -> Expr:
        macro = self._macros.get((function, len(args), target is not None))
        if macro is not None:
            try:
                expanded = macro.expand(MacroContext(position), target, args)
            except MacroError as error:
                self.issues.report(error.position, error.message)
                return Literal(position, None)
            if expanded is not None:
                return expanded
        return Call(position, function, args, target)
