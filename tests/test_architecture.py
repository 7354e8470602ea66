"""The house: imports flow one way and stay light, modules say what they offer, commands explain themselves."""

import ast
import dataclasses
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines import cli

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("ttrnn", "search_spaces", "pipelines")

# A module may import those of the rows above its own. `ttrnn.files` knows nothing of tensors and serves everybody;
# `ttrnn.reference` is for tests and readers.
LIBRARY = (
    ("shapes",),
    ("planner",),
    ("plain", "spans"),
    ("cells", "rows"),
    ("product",),
    ("contract", "scan", "decompose", "init", "packing", "pooling", "stream"),
    ("linear",),
    ("base", "step"),
    ("recurrent",),
    ("config", "convert"),
    ("model",),
    ("rounding", "onnx_graph", "parity"),
    ("onnx_parts", "quantise"),
    ("checkpoint",),
    ("export", "program"),
)
PIPELINES = (
    ("background", "cli", "metrics", "pictures", "spot", "terminal"),
    ("storage", "shown"),
    ("cache", "page_view", "home"),
    ("trials", "page_parts"),
    ("shards", "splits", "cluster", "demo", "report", "frontier", "study"),
    ("catalog", "decode", "augment", "contact_sheet", "resplit", "frontier_table", "confirmed", "progress", "mirror"),
    ("batches", "inspection", "plan", "isolation", "segments", "annotate"),
    ("task", "frames", "crew"),
    ("preprocess", "recipe"),
    ("measure", "optim", "refine", "visit", "classifier"),
    ("scoring", "compare"),
    ("fit", "evaluate", "tracking", "cost", "teller"),
    ("train", "runs", "one_video"),
    ("table", "confirm"),
    ("protocols",),
    ("dry_run",),
    ("predict", "pareto"),
    ("stopping", "search", "export", "screen"),
    ("tuning",),
    ("sweep", "reproduce"),
)
COMMANDS = ("preprocess", "train", "sweep", "pareto", "export", "evaluate", "predict", "demo", "reproduce")
HEAVY = ("ray", "optuna", "cv2", "matplotlib", "onnx", "onnxruntime", "pyarrow", "pandas")


def modules(package):
    """Dotted names and syntax trees of the files of a package; the package itself is its __init__."""
    files = sorted((ROOT / package).glob("*.py"))
    return {
        package if file.stem == "__init__" else f"{package}.{file.stem}": ast.parse(file.read_text(encoding="utf-8"))
        for file in files
    }


TREES = {name: tree for package in PACKAGES for name, tree in modules(package).items()}


def imports(tree):
    """Dotted names that a tree imports, also in functions; `from pipelines import cli` counts as pipelines.cli."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"a relative import in line {node.lineno}"
            submodules = {f"{node.module}.{alias.name}" for alias in node.names} & TREES.keys()
            found |= submodules or {node.module}
    return found


OWN_IMPORTS = {
    name: {target for target in imports(tree) - {name} if target.split(".")[0] in PACKAGES}
    for name, tree in TREES.items()
}


ROWS = {
    f"{package}.{module}": number
    for package, rows in (("ttrnn", LIBRARY), ("pipelines", PIPELINES))
    for number, row in enumerate(rows)
    for module in row
}


@pytest.mark.parametrize("name", [name for name in TREES if "." in name and not name.startswith("search_spaces")])
def test_every_module_has_a_place_and_imports_only_from_the_rows_above_it(name):
    if name in ("ttrnn.files", "ttrnn.reference"):
        assert not OWN_IMPORTS[name]
        return
    assert name in ROWS, f"{name} has no place in the tables at the head of this file"
    package = name.split(".")[0]
    for target in OWN_IMPORTS[name] - {"ttrnn.files"}:
        if target.startswith(f"{package}."):
            assert ROWS[target] < ROWS[name], f"{name} imports {target}"


@pytest.mark.parametrize("name", TREES)
def test_packages_are_built_on_each_other_in_one_direction(name):
    allowed = {"ttrnn": {"ttrnn"}, "search_spaces": {"ttrnn", "search_spaces"}, "pipelines": set(PACKAGES)}[
        name.split(".")[0]
    ]
    for target in OWN_IMPORTS[name]:
        assert target.split(".")[0] in allowed, f"{name} imports {target}"
        assert target != "ttrnn.reference", f"{name} imports the slow reference, which is for tests"
        assert target != "ttrnn" or name.startswith("pipelines"), f"{name} imports the package that it is part of"
    assert not any(target.split(".")[0] == "tests" for target in imports(TREES[name]))


def test_search_spaces_need_nothing_of_the_library_but_shapes():
    for name in TREES:
        if name.startswith("search_spaces"):
            assert {target for target in OWN_IMPORTS[name] if target.startswith("ttrnn")} <= {"ttrnn.shapes"}, name


@pytest.mark.parametrize("name", [name for name in TREES if name.startswith("ttrnn")])
def test_the_library_imports_torch_and_safetensors_and_nothing_heavier(name):
    top_level = imports(
        ast.Module([node for node in TREES[name].body if isinstance(node, ast.Import | ast.ImportFrom)], [])
    )
    roots = {target.split(".")[0] for target in top_level}
    assert roots <= sys.stdlib_module_names | {"torch", "safetensors", "ttrnn"}


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("from ttrnn import *", HEAVY),
        ("import ttrnn.export", HEAVY),
        ("import ttrnn.files", (*HEAVY, "torch")),
        ("import search_spaces", (*HEAVY, "torch")),
    ],
)
def test_importing_the_library_loads_nothing_heavy(statement, absent):
    code = f"import sys\n{statement}\nprint([name for name in {absent} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("name", TREES)
def test_every_module_says_what_it_is_and_what_it_offers(name):
    module = importlib.import_module(name)
    assert module.__doc__
    if len(TREES[name].body) == 1:
        return
    assert hasattr(module, "__all__"), f"{name} has no __all__"
    assert len(set(module.__all__)) == len(module.__all__)
    for offered in module.__all__:
        assert hasattr(module, offered), f"{name} offers {offered}, which it does not have"


def test_the_commands_are_those_of_the_design():
    with_main = {name for name, tree in TREES.items() for node in tree.body if getattr(node, "name", None) == "main"}
    assert with_main == {f"pipelines.{command}" for command in COMMANDS}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_explains_all_its_options(command, capsys, monkeypatch):
    module, seen, run = importlib.import_module(f"pipelines.{command}"), [], cli.run
    monkeypatch.setattr(
        cli, "run", lambda options_class, *args: (seen.append(options_class), run(options_class, *args))[1]
    )
    # Of the terminal that argparse wraps its lines for.
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as stopped:
        module.main(["--help"])
    assert stopped.value.code == 0
    text, (options_class,) = capsys.readouterr().out, seen
    assert f"python -m pipelines.{command}" in text
    explained = cli.field_help(options_class)
    for field in dataclasses.fields(options_class):
        flag = field.name.upper() if field.metadata.get("positional") else "--" + field.name.replace("_", "-")
        assert flag in text
        assert explained.get(field.name), f"{options_class.__name__}.{field.name} has no docstring under it"
    assert "--config FILE.json" in text
    assert "--json" in text
    assert f"python -m pipelines.{command}" in (module.__doc__ or ""), "its docstring shows its command lines"


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_run_as_a_script_runs_the_importable_module(command):
    tail = ast.unparse(TREES[f"pipelines.{command}"].body[-1])
    assert tail.startswith("if __name__ == '__main__':")
    assert f"from pipelines.{command} import main as importable_main" in tail
    assert tail.endswith("sys.exit(importable_main())")


@pytest.mark.parametrize(
    "how", [["-m", "pipelines.demo"], [str(ROOT / "pipelines" / "demo.py")]], ids=["module", "script"]
)
def test_commands_start_both_ways_from_anywhere(how, tmp_path):
    result = subprocess.run([sys.executable, *how, "--help"], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert "--seed" in result.stdout
