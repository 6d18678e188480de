"""The rules of the layout that the import linter and the code itself must keep."""

import ast
import shutil
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import mvc

ROOT = Path(mvc.__file__).parent
MODULES = {
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}
TREES = {name: ast.parse(path.read_bytes()) for name, path in MODULES.items()}
MOST_LINES = 600
MOST_FUNCTION_LINES = 60


def imported(tree):
    """Return the modules of the own package that a tree imports, wherever it does so."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name in MODULES}


def test_the_layers_are_kept():
    """The contracts of pyproject.toml hold."""
    linter = shutil.which("lint-imports", path=str(Path(sys.executable).parent)) or shutil.which("lint-imports")
    if linter is None:
        pytest.skip("import-linter is not installed")
    done = subprocess.run([linter, "--no-cache"], cwd=ROOT.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_module_is_part_of_a_cycle():
    """Type-only imports and imports inside of functions count. A package that re-exports a module does not."""
    graph = {name: imported(tree) - {name} for name, tree in TREES.items()}
    packages = {name for name, path in MODULES.items() if path.name == "__init__.py"}
    for name in graph.keys() - packages:
        graph[name] -= {name.rpartition(".")[0]}
    modules = {name: graph[name] - packages for name in graph.keys() - packages}
    cycle = []
    try:
        list(TopologicalSorter(modules).static_order())
    except CycleError as error:
        cycle = error.args[1]
    assert cycle == []


@pytest.mark.parametrize("name", MODULES)
def test_the_own_package_is_imported_at_the_top(name):
    """An import inside of a function usually hides a cycle."""
    functions = (node for node in ast.walk(TREES[name]) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    assert not {module for function in functions for module in imported(function)}


@pytest.mark.parametrize("name", MODULES)
def test_modules_and_functions_are_short(name):
    """600 lines a module; 60 lines a function without its docstring."""
    assert len(MODULES[name].read_text().splitlines()) <= MOST_LINES
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            lines = node.end_lineno - body[0].lineno + 1 if body and node.end_lineno else 0
            assert lines <= MOST_FUNCTION_LINES, f"{name}.{node.name} has {lines} lines"


@pytest.mark.parametrize("name", [name for name in MODULES if not name.startswith(("mvc.cli", "mvc.testing"))])
def test_only_the_command_line_prints_or_reads_the_environment(name):
    """The library is silent, and is told what it needs."""
    calls = {
        node.func.id for node in ast.walk(TREES[name]) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not calls & {"print", "input", "exit", "breakpoint"}
    attributes = {
        f"{node.value.id}.{node.attr}"
        for node in ast.walk(TREES[name])
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }
    assert not attributes & {"os.environ", "os.getenv", "sys.exit", "sys.stdout", "sys.stderr", "sys.argv"}


@pytest.mark.parametrize("name", MODULES)
def test_nothing_unpickles(name):
    """A checkpoint is never executed."""
    loaders = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    found = set()
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    assert not found & loaders


@pytest.mark.parametrize("name", MODULES)
def test_what_is_exported_exists(name):
    """Every name of ``__all__`` is defined in its module, so that documentation cannot list a ghost."""
    exported = [
        ast.literal_eval(node.value)
        for node in TREES[name].body
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets)
    ]
    defined = {
        alias.asname or alias.name
        for node in ast.walk(TREES[name])
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    for node in TREES[name].body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            defined.add(node.name)
        elif isinstance(node, ast.Assign):
            defined |= {target.id for target in node.targets if isinstance(target, ast.Name)}
            defined |= {
                item.id
                for target in node.targets
                if isinstance(target, ast.Tuple)
                for item in target.elts
                if isinstance(item, ast.Name)
            }
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            defined.add(node.target.id)
    lazy = {"Repository", "init", "open"} if name == "mvc" else set()
    assert set(exported[0] if exported else ()) <= defined | lazy
