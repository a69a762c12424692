"""Layout: assignments in a class body, broken over lines as formatters do."""

from __future__ import annotations

from collections.abc import Sequence

WIDTH = 88  # what formatters take for the length of a line unless told otherwise
BODY = " " * 8

Call = tuple[str, Sequence[str]]  # what is called, with which arguments


def call(target: str, called: Call, comment: str = "") -> list[str]:
    """Returns `target = called(…)` on one line if it fits, else with the arguments on lines of their own."""
    head, arguments = called
    line = f"{BODY}{target} = {head}({', '.join(arguments)}){comment}"
    if len(line) <= WIDTH:
        return [line]
    if not arguments or len(f"{BODY}{target} = {head}(") > WIDTH:
        return [f"{BODY}{target} = (", *(f"    {line}" for line in _called(head, arguments)), f"{BODY}){comment}"]
    first, *rest = _called(head, arguments, broken=True)
    return [f"{BODY}{target} = {first.strip()}", *rest[:-1], f"{rest[-1]}{comment}"]


def _called(head: str, arguments: Sequence[str], broken: bool = False) -> list[str]:
    line = f"{BODY}{head}({', '.join(arguments)})"
    if not broken and len(line) + 4 <= WIDTH:
        return [line]
    inner = [f"{BODY}    {', '.join(arguments)}"]
    if len(inner[0]) > WIDTH:
        inner = [f"{BODY}    {argument}," for argument in arguments]
    return [f"{BODY}{head}(", *inner, f"{BODY})"]


def chain(target: str, operator: str, terms: Sequence[str], comment: str = "") -> list[str]:
    """Returns `target = terms[0] operator terms[1] …`, in brackets if it needs several lines."""
    whole = f" {operator} ".join(terms)
    if len(line := f"{BODY}{target} = {whole}{comment}") <= WIDTH:
        return [line]
    inner = [f"{BODY}    {whole}"]
    if len(inner[0]) > WIDTH:
        inner = [f"{BODY}    {terms[0]}", *(f"{BODY}    {operator} {term}" for term in terms[1:])]
    return [f"{BODY}{target} = (", *inner, f"{BODY}){comment}"]


def mean(target: str, terms: Sequence[str], comment: str = "") -> list[str]:
    """Returns the mean of the terms, as a sum and a division if one line is too short."""
    line = f"{BODY}{target} = ({' + '.join(terms)}) / {len(terms)}{comment}"
    if len(line) <= WIDTH:
        return [line]
    return [*chain(target, "+", terms), *chain(target, "/", (target, str(len(terms))), comment)]


def concat(target: str, terms: Sequence[str], comment: str = "") -> list[str]:
    """Returns the concatenation of the terms along the channels."""
    line = call(target, ("torch.cat", (f"[{', '.join(terms)}]", "dim=1")), comment)
    if len(line) == 1:
        return line
    given = [f"{BODY}        {term}," for term in terms]
    inner = [f"{BODY}    [", *given, f"{BODY}    ],", f"{BODY}    dim=1,"]
    return [f"{BODY}{target} = torch.cat(", *inner, f"{BODY}){comment}"]


def function(name: str, arguments: Sequence[str], result: str) -> str:
    """Returns the first line of a method, or several if it is too long."""
    line = f"    def {name}(self, {', '.join(arguments)}) -> {result}:"
    if len(line) <= WIDTH:
        return line
    given = [f"{BODY}{argument}," for argument in ("self", *arguments)]
    return "\n".join([f"    def {name}(", *given, f"    ) -> {result}:"])
