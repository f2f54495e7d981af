"""What tests share is in tests/fakes, tests/assets and tests/support; test modules do not import each other."""

import ast
from pathlib import Path

TESTS = Path(__file__).parents[1]
SHARED = ("tests.fakes", "tests.assets", "tests.support")


def imports(path):
    """Yield the modules below tests that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("tests"):
            yield from (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("tests"))


def is_test_module(module):
    return (
        any(part.startswith("test_") or part == "conftest" for part in module.split(".")[1:])
        and (TESTS.parent / Path(*module.split("."))).with_suffix(".py").exists()
    )


def test_no_module_imports_a_test_module_or_a_conftest():
    found = [(str(path), module) for path in TESTS.rglob("*.py") for module in imports(path) if is_test_module(module)]
    assert found == []


def test_helpers_of_one_directory_are_used_in_it_alone():
    found = []
    for path in TESTS.rglob("*.py"):
        package = ".".join(("tests", *path.parent.relative_to(TESTS).parts))
        allowed = (*SHARED, package)
        found += [
            (str(path), module) for module in imports(path) if module != "tests" and not module.startswith(allowed)
        ]
    assert found == []
