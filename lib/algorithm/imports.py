"""The sources that a module can reach by imports, found without running any of them.

Where it cannot be told what a module imports, everything in its package counts: too much rather than too little.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import pkgutil
import sys
from collections.abc import Iterable, Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

_COMPUTED = {"import_module", "__import__", "exec_module", "run_module", "run_path"}
_EVALUATED = {"exec", "eval"}


class Sources:
    """Modules of some top-level packages, by name, with a digest (hexadecimal SHA-256) of each one's syntax tree.

    Imports inside functions count, those under `if TYPE_CHECKING` do not, as they never run. Comments, docstrings and
    layout are no part of a digest.
    """

    def __init__(self, packages: Iterable[str]) -> None:
        self.packages = set(packages)
        self.digests: dict[str, str] = {}
        self.texts: dict[str, str | bytes] = {}
        self.others: dict[str, set[str]] = {}
        """Module -> top-level packages that it imports besides these."""
        self._specs: dict[str, ModuleSpec | None] = {}
        self._whole: set[str] = set()

    def add(self, module: str) -> bool:
        """Adds a module and all that it can reach. False if there is no such module."""
        if self._spec(module) is None:
            return False
        queue = [module]
        while queue:
            name = queue.pop()
            if name in self.digests or _top(name) not in self.packages:
                continue
            spec = self._spec(name)
            if spec is None:
                continue  # a class or function of the module that it was imported from
            self.texts[name] = _source(spec)
            tree = ast.parse(self.texts[name])
            is_package = spec.submodule_search_locations is not None
            found = _Imports(name if is_package else name.rpartition(".")[0], tree)
            self.digests[name] = hashlib.sha256(ast.dump(tree).encode()).hexdigest()
            self.others[name] = {_top(other) for other in found.names} - self.packages
            for reached in {name, *found.names}:
                if reached.endswith(".*"):
                    queue += self._within(reached[:-2])
                parts = reached.split(".")
                queue += [".".join(parts[:n]) for n in range(1, len(parts) + 1)]
            if found.computed and _top(name) not in self._whole:
                self._whole.add(_top(name))
                queue += self._within(_top(name), deep=True)
        return True

    def unchanged(self) -> bool:
        """Whether all sources are still what they were when they were added."""
        try:
            return all((spec := self._spec(name)) and _source(spec) == text for name, text in self.texts.items())
        except OSError:
            return False

    def _within(self, package: str, deep: bool = False) -> Iterator[str]:
        spec = self._spec(package)
        for module in pkgutil.iter_modules((spec and spec.submodule_search_locations) or []):
            yield f"{package}.{module.name}"
            if deep and module.ispkg:
                yield from self._within(f"{package}.{module.name}", deep)

    def _spec(self, name: str) -> ModuleSpec | None:
        """As importlib.util.find_spec, which would run the packages above a module to find it."""
        if name not in self._specs:
            self._specs[name] = self._find(name)
        return self._specs[name]

    def _find(self, name: str) -> ModuleSpec | None:
        loaded = getattr(sys.modules.get(name), "__spec__", None)
        if loaded is not None and loaded.name == name:
            return loaded
        parent = name.rpartition(".")[0]
        path = None
        if parent:
            above = self._spec(parent)
            if above is None or above.submodule_search_locations is None:
                return None
            path = above.submodule_search_locations
        finders: list[Any] = [finder for finder in sys.meta_path if hasattr(finder, "find_spec")]
        try:
            return next((spec for finder in finders if (spec := finder.find_spec(name, path))), None)
        except KeyError:  # a folder without __init__.py within another is found only once that one is imported
            return importlib.util.find_spec(name)


class _Imports:
    """Dotted names that a module imports, and those it reaches as attributes of them; some may be no modules.

    Takes the docstrings out of `tree`, attributes' too: a text that stands alone does nothing.
    """

    def __init__(self, package: str, tree: ast.Module) -> None:
        self.package = package
        self.names: set[str] = set()
        self.computed = False
        self._bound: dict[str, str] = {}
        chains: list[ast.Attribute] = []
        waiting: list[ast.AST] = [tree]
        while waiting:
            node = waiting.pop()
            if isinstance(node, ast.Name):
                self.computed |= node.id in _COMPUTED or node.id in _EVALUATED
                continue
            if isinstance(node, ast.Attribute):
                self.computed |= node.attr in _COMPUTED
                chains.append(node)
            elif isinstance(node, ast.Import):
                self._import(node)
            elif isinstance(node, ast.ImportFrom):
                self._import_from(node)
            elif isinstance(node, ast.If) and _is_for_types(node.test):
                waiting += node.orelse
                continue
            for value in vars(node).values():  # several times as fast as ast.walk
                if isinstance(value, ast.AST):
                    waiting.append(value)
                elif isinstance(value, list):
                    if value and isinstance(value[0], ast.stmt):
                        value[:] = [statement for statement in value if not _is_text(statement)]
                    waiting += [item for item in value if isinstance(item, ast.AST)]
        for chain in chains:
            self._follow(chain)

    def _import(self, node: ast.Import) -> None:
        for alias in node.names:
            self.names.add(alias.name)
            self._bound[alias.asname or _top(alias.name)] = alias.name if alias.asname else _top(alias.name)

    def _import_from(self, node: ast.ImportFrom) -> None:
        base = node.module or ""
        if node.level:
            above = self.package.split(".")
            above = above[: len(above) - node.level + 1]
            base = ".".join([*above, *([node.module] if node.module else [])])
        self.names.add(base)
        for alias in node.names:
            self.names.add(f"{base}.{alias.name}")
            self._bound[alias.asname or alias.name] = f"{base}.{alias.name}"
            self.computed |= alias.name in _COMPUTED

    def _follow(self, chain: ast.Attribute) -> None:
        parts: list[str] = []
        inner: ast.expr = chain
        while isinstance(inner, ast.Attribute):
            parts.append(inner.attr)
            inner = inner.value
        if isinstance(inner, ast.Name) and inner.id in self._bound:
            self.names.add(".".join([self._bound[inner.id], *reversed(parts)]))


def _is_for_types(test: ast.expr) -> bool:
    name = test.id if isinstance(test, ast.Name) else test.attr if isinstance(test, ast.Attribute) else ""
    return name == "TYPE_CHECKING"


def _top(name: str) -> str:
    return name.partition(".")[0]


def _source(spec: ModuleSpec) -> str | bytes:
    if spec.origin is None and spec.submodule_search_locations is not None:
        return ""  # a folder without __init__.py
    loader: Any = spec.loader
    if hasattr(loader, "get_source"):
        source = loader.get_source(spec.name)
        if source is not None:
            return str(source)
    path = Path(spec.origin or "")
    if path.suffix == ".py":
        return path.read_bytes()
    # Compiled: its bytes are all there is; as a constant they are a syntax tree, too.
    return repr([hashlib.sha256(path.read_bytes()).hexdigest()])


def _is_text(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )
