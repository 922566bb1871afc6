"""Tokens into a tree, by recursive descent over the grammar of the specification; macros are recognised on the way.

https://github.com/google/cel-spec/blob/master/doc/langdef.md#syntax · macros: `has`, the comprehensions with one and
two variables (KEP-5009's library), `optMap`, `optFlatMap`.
"""

from __future__ import annotations

from typing import Any, NoReturn

from sampan.kube.cel.errors import CompileError, Issue
from sampan.kube.cel.lexer import Token, tokens
from sampan.kube.cel.names import RESERVED
from sampan.kube.cel.tree import (
    Bind,
    Call,
    Const,
    Ident,
    ListNode,
    Macro,
    MapNode,
    Node,
    ObjectNode,
    Select,
)
from sampan.kube.cel.types import BOOL, BYTES, DOUBLE, INT, NULL, STRING, UINT
from sampan.kube.cel.values import UInt

MAX_DEPTH = 150  # nested parentheses, calls, operators of one kind in a row
_OPERAND = (
    "expecting {'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', "
    "NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}"
)
_STARTS = frozenset("[{(.-!")
_LEVELS: tuple[dict[str, str], ...] = (
    {"<": "_<_", "<=": "_<=_", ">": "_>_", ">=": "_>=_", "==": "_==_", "!=": "_!=_", "in": "@in"},
    {"+": "_+_", "-": "_-_"},
    {"*": "_*_", "/": "_/_", "%": "_%_"},
)
# macro → numbers of arguments it takes, the iteration variables among them
_FOLDS: dict[str, dict[int, int]] = {
    "all": {2: 1, 3: 2},
    "exists": {2: 1, 3: 2},
    "exists_one": {2: 1, 3: 2},
    "existsOne": {2: 1, 3: 2},
    "map": {2: 1, 3: 1},
    "filter": {2: 1},
    "sortBy": {2: 1},
    "transformList": {3: 2, 4: 2},
    "transformMap": {3: 2, 4: 2},
    "transformMapEntry": {3: 2, 4: 2},
}
_LITERALS = {"int": INT, "uint": UINT, "float": DOUBLE, "string": STRING, "bytes": BYTES}


def parse(source: str) -> Node:
    """The tree of an expression. Raises CompileError."""
    parser = _Parser(source)
    try:
        node = parser.expression()
    except RecursionError:
        raise CompileError(source, [Issue(-1, "expression recursion limit exceeded")]) from None
    if parser.token.kind != "end":
        parser.unexpected("expecting <EOF>", extra=parser.following.kind == "end")
    return node


class _Parser:
    def __init__(self, source: str) -> None:
        self.source = source
        self.tokens = tokens(source)
        self.index = 0
        self.depth = 0

    @property
    def token(self) -> Token:
        return self.tokens[self.index]

    def fail(self, position: int, message: str) -> NoReturn:
        raise CompileError(self.source, [Issue(position, message)])

    @property
    def following(self) -> Token:
        return self.tokens[min(self.index + 1, len(self.tokens) - 1)]

    @property
    def shown(self) -> str:
        """The token as it is written."""
        token = self.token
        if token.kind in ("op", "word", "end"):
            return str(token.value)
        return self.source[token.position : self.following.position].rstrip()

    def unexpected(self, expected: str, *, extra: bool = False) -> NoReturn:
        """As ANTLR words it: a token is `extraneous` when without it all would be well."""
        what = "extraneous" if extra else "mismatched"
        self.fail(self.token.position, f"Syntax error: {what} input '{self.shown}' {expected}")

    def no_operand(self) -> NoReturn:
        token, after = self.token, self.following
        extra = token.kind != "end" and (
            after.kind in (*_LITERALS, "word") or (after.kind == "op" and after.value in _STARTS)
        )
        self.unexpected(_OPERAND, extra=extra and after.value != "in")

    def no_name(self) -> NoReturn:
        text = "" if self.token.kind == "end" else self.shown
        message = f"Syntax error: no viable alternative at input '.{text}'"
        self.fail(self.token.position, message)

    def take(self, op: str) -> Token | None:
        token = self.tokens[self.index]
        if token.kind == "op" and token.value == op:
            self.index += 1
            return token
        return None

    def need(self, op: str) -> Token:
        found = self.take(op)
        if found is None:
            if self.token.kind == "end" and op in (")", "]"):
                self.fail(self.token.position, f"Syntax error: missing '{op}' at '<EOF>'")
            self.unexpected(f"expecting '{op}'")
        return found

    def more(self, closing: str) -> bool:
        """Behind an item of a list or map: is there another? The closing bracket is taken."""
        if self.take(","):
            return self.take(closing) is None
        if self.take(closing) is None:
            after = self.following
            extra = self.token.kind != "end" and after.value in (closing, ",")
            self.unexpected(f"expecting {{'{closing}', ','}}", extra=extra)
        return False

    # Operators

    def expression(self) -> Node:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            self.fail(-1, f"expression recursion limit exceeded: {MAX_DEPTH}")
        condition = self.either()
        question = self.take("?")
        if question is not None:
            yes = self.either()
            self.need(":")
            no = self.expression()
            condition = Call(question.position, "_?_:_", None, [condition, yes, no])
        self.depth -= 1
        return condition

    def either(self) -> Node:
        return self.chain("||", "_||_", self.both)

    def both(self) -> Node:
        return self.chain("&&", "_&&_", lambda: self.binary(0))

    def chain(self, op: str, function: str, operand: Any) -> Node:
        """All operands of `a || b || c` side by side: a chain is as deep as one."""
        first = operand()
        found = self.take(op)
        if found is None:
            return first  # type: ignore[no-any-return]
        args = [first, operand()]
        while self.take(op):
            args.append(operand())
        return Call(found.position, function, None, args)

    def binary(self, level: int) -> Node:
        if level == len(_LEVELS):
            return self.unary()
        left = self.binary(level + 1)
        count = 0
        while True:
            token = self.token
            function = _LEVELS[level].get(token.value) if token.kind in ("op", "word") else None
            if function is None:
                return left
            self.index += 1
            count += 1
            if self.depth + count > MAX_DEPTH:
                self.fail(-1, f"expression recursion limit exceeded: {MAX_DEPTH}")
            left = Call(token.position, function, None, [left, self.binary(level + 1)])

    def unary(self) -> Node:
        token = self.token
        if token.kind != "op" or token.value not in ("!", "-"):
            return self.member()
        count = 0
        while self.take(token.value):
            count += 1
        if token.value == "-" and self.token.kind in ("int", "float"):
            number = self.tokens[self.index]
            value = -number.value
            self.tokens[self.index] = number._replace(value=value, position=token.position)
            count -= 1
        operand = self.member()
        if count % 2 == 0 and count:
            # `--x` is x, but only for something that `-` may be written before.
            inner = Call(token.position, "!_" if token.value == "!" else "-_", None, [operand])
            return Call(token.position, inner.function, None, [inner])
        if not count:
            return operand
        return Call(token.position, "!_" if token.value == "!" else "-_", None, [operand])

    # Operands

    def member(self) -> Node:
        node = self.primary()
        count = 0
        while True:
            count += 1
            if self.depth + count > MAX_DEPTH:
                self.fail(-1, f"expression recursion limit exceeded: {MAX_DEPTH}")
            dot = self.take(".")
            if dot is not None:
                node = self.selection(node, dot.position)
                continue
            bracket = self.take("[")
            if bracket is None:
                return node
            optional = self.take("?") is not None
            index = self.expression()
            self.need("]")
            function = "_[?_]" if optional else "_[_]"
            node = Call(bracket.position, function, None, [node, index])

    def selection(self, operand: Node, position: int) -> Node:
        optional = self.take("?") is not None
        token = self.token
        if token.kind == "quoted":
            self.index += 1
            return Select(position, operand, token.value, optional=optional)
        if token.kind != "word" or token.value in ("true", "false", "null", "in"):
            self.no_name()
        self.index += 1
        opening = None if optional else self.take("(")
        if opening is None:
            return Select(position, operand, token.value, optional=optional)
        args = self.arguments()
        return self.member_macro(operand, token, opening.position, args)

    def arguments(self) -> list[Node]:
        args: list[Node] = []
        if self.take(")"):
            return args
        args.append(self.expression())
        while self.take(","):
            args.append(self.expression())
        self.need(")")
        return args

    def primary(self) -> Node:
        token = self.token
        kind, position = token.kind, token.position
        if kind in _LITERALS:
            return self.literal(token)
        if kind == "word":
            if token.value in ("true", "false", "null"):
                self.index += 1
                value = {"true": True, "false": False, "null": None}[token.value]
                constant = Const(position, value)
                constant.type = NULL if value is None else BOOL
                return constant
            if token.value == "in":
                self.no_operand()
            return self.name()
        if kind == "op":
            if token.value == ".":
                return self.name()
            if token.value == "(":
                self.index += 1
                inner = self.expression()
                self.need(")")
                return inner
            if token.value == "[":
                return self.list_literal()
            if token.value == "{":
                return self.map_literal()
        self.no_operand()

    def literal(self, token: Token) -> Node:
        self.index += 1
        value = token.value
        if token.kind == "int" and not -(1 << 63) <= value < 1 << 63:
            self.fail(token.position, "invalid int literal")
        constant = Const(token.position, UInt(value) if token.kind == "uint" else value)
        constant.type = _LITERALS[token.kind]
        return constant

    def name(self) -> Node:
        start = self.token.position
        leading = self.take(".")
        token = self.token
        if token.kind != "word":
            self.unexpected("expecting IDENTIFIER")
        self.index += 1
        prefix = "." if leading else ""
        opening = self.take("(")
        if opening is not None:
            return self.global_macro(prefix + token.value, opening.position, self.arguments())
        named = self.type_name(token.value)
        if named is not None:
            return self.object_literal(prefix + named)
        if token.value in RESERVED:
            self.fail(start, f"reserved identifier: {token.value}")
        return Ident(start, prefix + token.value)

    def type_name(self, first: str) -> str | None:
        """`first` and what follows when it is the name of an object literal, which is known by its brace."""
        at = self.index
        parts = [first]
        while (
            self.tokens[at].kind == "op"
            and self.tokens[at].value == "."
            and self.tokens[at + 1].kind == "word"
        ):
            parts.append(self.tokens[at + 1].value)
            at += 2
        if self.tokens[at].kind == "op" and self.tokens[at].value == "{":
            self.index = at
            return ".".join(parts)
        return None

    def list_literal(self) -> Node:
        position = self.need("[").position
        items: list[Node] = []
        optional: set[int] = set()
        open_ = not self.take("]")
        while open_:
            if self.take("?"):
                optional.add(len(items))
            items.append(self.expression())
            open_ = self.more("]")
        return ListNode(position, items, optional)

    def map_literal(self) -> Node:
        position = self.need("{").position
        entries: list[tuple[Node, Node, bool]] = []
        open_ = not self.take("}")
        while open_:
            optional = self.take("?") is not None
            key = self.expression()
            self.need(":")
            entries.append((key, self.expression(), optional))
            open_ = self.more("}")
        return MapNode(position, entries)

    def object_literal(self, name: str) -> Node:
        position = self.need("{").position
        entries: list[tuple[int, str, Node, bool]] = []
        open_ = not self.take("}")
        while open_:
            optional = self.take("?") is not None
            token = self.token
            if token.kind not in ("word", "quoted"):
                self.unexpected("expecting {'}', ',', '\\u003F', IDENTIFIER, ESC_IDENTIFIER}")
            self.index += 1
            self.need(":")
            entries.append((token.position, token.value, self.expression(), optional))
            open_ = self.more("}")
        return ObjectNode(position, name, entries)

    # Macros

    def global_macro(self, name: str, position: int, args: list[Node]) -> Node:
        if name == "has" and len(args) == 1:
            field = args[0]
            if not isinstance(field, Select) or field.optional or field.test:
                self.fail(args[0].position, "invalid argument to has() macro")
            return Select(field.position, field.operand, field.field, test=True)
        return Call(position, name, None, args)

    def member_macro(self, target: Node, name: Token, position: int, args: list[Node]) -> Node:
        word = name.value
        if word in ("optMap", "optFlatMap") and len(args) == 2:
            (variable,) = self.variables(args[:1])
            return Bind(position, target, variable, args[1], flat=word == "optFlatMap")
        count = _FOLDS.get(word, {}).get(len(args))
        if count is None:
            return Call(position, word, target, args)
        names = self.variables(args[:count])
        filter_: Node | None = None
        rest = args[count:]
        if len(rest) == 2:
            filter_ = rest[0]
        kind = "exists_one" if word == "existsOne" else word
        return Macro(position, kind, target, names, filter_, rest[-1])

    def variables(self, args: list[Node]) -> tuple[str, ...]:
        names = []
        for arg in args:
            if not isinstance(arg, Ident) or arg.name.startswith("."):
                self.fail(arg.position, "argument must be a simple name")
            if arg.name in names:
                self.fail(arg.position, f"duplicate variable name: {arg.name}")
            names.append(arg.name)
        return tuple(names)
