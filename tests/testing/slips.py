"""Slips of one letter in real code: a module's source with one token changed, executed in the place of the original."""

import importlib
import inspect
import re
import types

from sfumato.core.config import REGISTRY

# each token and what a slip makes of it; applied to one place at a time
SLIPS = (
    (r"_t\b", "_s"),
    (r"_s\b", "_t"),
    (r"\bk\.t\b", "k.s"),
    (r"\bk\.s\b", "k.t"),
    (r"alpha_", "sigma_"),
    (r"sigma_", "alpha_"),
    (r" \+ ", " - "),
    (r" - ", " + "),
    (r" \* ", " / "),
    (r" / ", " * "),
    (r"\b0\.5\b", "0.6"),
    (r"\b2\b", "3"),
    (r"\b1\b", "2"),
    (r"\*\* 0\.5", ""),
    (r"\*\*cond", ""),
    (r", -c", ", c"),
)


def mutants(path: str, function: str, end: str = r"\n\n|\Z") -> list[tuple[str, str]]:
    """Return (description, source) of every slip in the body of a method of a module, up to `end`."""
    source = inspect.getsource(importlib.import_module(path))
    start = re.search(rf"    def {function}\(.*?\"\"\".*?\"\"\"\n", source, re.DOTALL).end()
    stop = re.search(end, source[start:]).start() + start
    found = []
    for pattern, new in SLIPS:
        for m in re.finditer(pattern, source[start:stop]):
            a, b = start + m.start(), start + m.end()
            line = source.count("\n", 0, a)
            if "#" in source[source.rfind("\n", 0, a) : a]:
                continue  # a comment
            text = source[:a] + new + source[b:]
            column = a - source.rfind("\n", 0, a)
            found.append(
                (f"{source[a:b].strip()} -> {new.strip()} at {column}: {source.splitlines()[line].strip()}", text)
            )
    return found


def load(path: str, source: str) -> types.ModuleType:
    """Execute a module's changed source under its own name, without putting it in the place of the original."""
    before = dict(REGISTRY)
    module = types.ModuleType(path)
    module.__package__ = path.rpartition(".")[0]
    try:
        exec(compile(source, f"<slip of {path}>", "exec"), module.__dict__)
    finally:
        REGISTRY.update(before)  # the slip has registered itself under the original's name
    return module
