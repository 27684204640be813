"What is exported says what it takes and gives, and whoever builds on the package is told so."

import ast
from pathlib import Path

import pytest

import iqa_repro

PACKAGE = Path(iqa_repro.__file__).parent
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "_modidx.py")


def functions(tree: ast.Module):
    "Name, definition and whether it is a method, of all that is public; a public class with its special methods"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield node.name, node, False
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef) and (
                    inner.name.endswith("__") or not inner.name.startswith("_")
                ):
                    yield f"{node.name}.{inner.name}", inner, True


def unhinted(name: str, node: ast.FunctionDef, method: bool) -> list[str]:
    "Parameters without a hint, and `return`"
    given = node.args
    every = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
    static = any(isinstance(mark, ast.Name) and mark.id == "staticmethod" for mark in node.decorator_list)
    named = [one for one in every if one is not None][method and not static :]
    lost = [one.arg for one in named if one.annotation is None]
    return lost + ["return"] * (node.returns is None and node.name != "__init__")


def test_the_search_sees_what_is_missing():
    code = "class A:\n  def f(self, a, *, b: int, **c) -> None: ...\n  def _g(self, a): ...\ndef h(): ...\n"
    found = {name: unhinted(name, node, method) for name, node, method in functions(ast.parse(code))}
    assert found == {"A.f": ["a", "c"], "h": ["return"]}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_all_that_is_exported_is_hinted(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    lost = {name: unhinted(name, node, method) for name, node, method in functions(tree)}
    assert not {name: names for name, names in lost.items() if names}, f"add hints in the notebook of {path}"


def test_the_package_says_that_it_is_hinted():
    assert (PACKAGE / "py.typed").is_file(), "PEP 561: without it no checker reads the hints"
