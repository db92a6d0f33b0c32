"""The shape of the package: imports go downwards, and modules and functions stay short."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "nldiff"

# From the bottom up: package or top-level module -> the packages or modules that it may import besides itself.
LAYERS = {
    "errors": "",
    "version": "",
    "interrupts": "",
    "reading": "errors",
    "writing": "errors interrupts",
    "devices": "errors",
    "cores": "",
    "config": "errors reading",
    "sound": "errors reading writing",
    "transforms": "errors",
    "networks": "errors transforms",
    "weight_files": "errors reading writing",
    "priors": "devices sound networks weight_files",
    "operators": "errors reading writing",
    "metrics": "errors sound transforms",
    "sampling": "errors priors.edm operators transforms sound.histogram",
    "baselines": "errors sound transforms networks weight_files metrics",
    "figures": "errors interrupts reading writing sound transforms metrics",
    "curves": "errors version reading writing sound operators figures",
    "identification": "errors version writing sound operators figures curves",
    "restoration": "errors version reading writing devices cores sound transforms networks.refinement weight_files "
    "priors operators metrics sampling baselines figures curves",
    "training": "errors version writing devices sound transforms networks priors operators metrics baselines "
    "restoration.increasing restoration.learned restoration.sparse",
    "evaluation": "errors reading writing devices config sound priors operators metrics baselines figures restoration",
    "report": "errors version writing sound metrics figures",
    "app": "errors version interrupts sound restoration report",
    "cli": "errors version interrupts writing devices config sound priors operators curves identification restoration "
    "training evaluation report app",
    "__main__": "cli",
    "__init__": "errors version priors operators curves identification restoration",
}
# (module, imported module) -> the reason why this import goes upwards.
UPWARD: dict[tuple[str, str], str] = {}
LONGEST_FUNCTION, LONGEST_FILE = 60, 350


def modules_of(root: Path) -> dict[str, Path]:
    """Name relative to the package, such as `sound.files`, to file; a package's name stands for its `__init__`."""
    names = {path: path.relative_to(root).with_suffix("").parts for path in sorted(root.rglob("*.py"))}
    return {".".join(n[:-1] if n[-1] == "__init__" and len(n) > 1 else n): path for path, n in names.items()}


def imports_of(path: Path, modules: dict[str, Path], package: str) -> Iterator[str]:
    """Modules of the package that a file imports anywhere, in functions and for type checking as well."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            deeper = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name.removeprefix(f"{package}.") in modules else str(node.module) for name in deeper]
        else:
            continue
        for name in names:
            if name == package:
                yield "__init__"
            elif name.startswith(f"{package}."):
                yield name.removeprefix(f"{package}.")


def upward_imports(root: Path, layers: dict[str, str]) -> list[str]:
    modules = modules_of(root)
    problems = []
    for module, path in modules.items():
        layer = module.partition(".")[0]
        for target in sorted(set(imports_of(path, modules, root.name))):
            allowed = [layer, *layers.get(layer, "").split()]
            inside = any(target == name or target.startswith(f"{name}.") for name in allowed)
            if not inside and (module, target) not in UPWARD:
                problems.append(f"{module} imports {target}")
    return problems


def cycle(root: Path) -> list[str]:
    modules = modules_of(root)
    graph = {module: set(imports_of(path, modules, root.name)) - {module} for module, path in modules.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def too_long(root: Path) -> list[str]:
    problems = []
    for module, path in modules_of(root).items():
        text = path.read_text(encoding="utf-8")
        lines = len(text.splitlines())
        if lines > LONGEST_FILE:
            problems.append(f"{module} has {lines} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                if lines > LONGEST_FUNCTION:
                    problems.append(f"{module}.{node.name} has {lines} lines")
    return problems


def without_docstring(root: Path) -> list[str]:
    folders = {path.parent for path in root.rglob("*.py")}
    texts = {folder: folder / "__init__.py" for folder in folders}
    return sorted(
        folder.name
        for folder, path in texts.items()
        if not path.exists() or not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    )


def prints(root: Path) -> list[str]:
    return [
        f"{module}, line {node.lineno}"
        for module, path in modules_of(root).items()
        if module.partition(".")[0] != "cli"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]


def test_imports_go_downwards() -> None:
    assert upward_imports(ROOT, LAYERS) == []


def test_no_import_cycle() -> None:
    assert cycle(ROOT) == []


def test_functions_and_files_are_short() -> None:
    assert too_long(ROOT) == []


def test_every_package_says_what_lives_there() -> None:
    assert without_docstring(ROOT) == []


def test_the_library_prints_nothing() -> None:
    assert prints(ROOT) == []


def test_the_table_knows_every_package_and_has_an_order() -> None:
    assert {module.partition(".")[0] for module in modules_of(ROOT)} == set(LAYERS)
    order = list(LAYERS)
    for place, (package, allowed) in enumerate(LAYERS.items()):
        assert {name.partition(".")[0] for name in allowed.split()} <= set(order[:place]), package


def test_what_the_checks_find(tmp_path: Path) -> None:
    root = tmp_path / "house"
    files = {
        "__init__.py": '"""A house."""\n',
        "low.py": "def f() -> None:\n    from house.high import attic\n\n    print(attic)\n",
        "high/__init__.py": "",
        "high/attic.py": "import house.high.roof\nimport os.path\n",
        "high/roof.py": "from house import high, room\nfrom house.high.attic import window\n",
        "high/long.py": "def g() -> None:\n" + "    pass\n" * LONGEST_FUNCTION + "#\n" * (LONGEST_FILE - 60),
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    layers = {"low": "", "high": "low"}
    assert upward_imports(root, layers) == ["high.roof imports __init__", "low imports high.attic"]
    assert set(cycle(root)) == {"high.attic", "high.roof"}
    assert too_long(root) == ["high.long has 351 lines", "high.long.g has 61 lines"]
    assert without_docstring(root) == ["high"]
    assert prints(root) == ["low, line 4"]


@pytest.mark.parametrize("allowed", ["low", "low.cellar"])
def test_a_layer_may_open_one_module_alone(tmp_path: Path, allowed: str) -> None:
    root = tmp_path / "house"
    (root / "low").mkdir(parents=True)
    for name in ("low/cellar.py", "low/garage.py"):
        (root / name).touch()
    (root / "high.py").write_text("from house.low.cellar import wine\nfrom house.low import garage\n")
    expected = [] if allowed == "low" else ["high imports low.garage"]
    assert upward_imports(root, {"low": "", "high": allowed}) == expected
