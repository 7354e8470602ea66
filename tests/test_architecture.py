"""The architecture: imports flow one way and stay light, modules say what they offer, commands explain themselves."""

import ast
import dataclasses
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.__main__ import COMMANDS
from pipelines.core import command as commands
from pipelines.core.options import field_help

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("ttrnn", "search_spaces", "pipelines")

# A module of the library may import those of the rows above its own. `ttrnn.files` knows nothing of tensors and serves
# everybody; `ttrnn.reference` is for tests and readers.
LIBRARY = (
    ("shapes", "events"),
    ("config_file", "planner", "stem_shape"),
    ("plain", "spans"),
    ("cells", "fused", "rows"),
    ("product", "convolve"),
    ("contract", "scan", "decompose", "init", "packing", "pooling", "stream"),
    ("network",),
    ("formats",),
    ("fit",),
    ("linear", "stem"),
    ("base", "step"),
    ("recurrent",),
    ("config", "convert"),
    ("model",),
    ("rounding", "onnx_graph", "parity"),
    ("onnx_parts", "quantise"),
    ("checkpoint",),
    ("export", "program", "portable"),
    ("portable.weights", "integer"),
    ("portable.js", "portable.rounding", "portable.c_tables"),
    ("portable.c",),
    ("portable.c_export",),
)
# A module of pipelines imports its own package and those before it.
ORDER = ("core", "storage", "cluster", "video", "data", "baselines", "evaluation", "training", "tuning", "report")
ABOVE = {"inference": "evaluation", "paper": "training", "bakeoff": "training"}
# Where else than in cluster/ a module may import ray.
WITH_RAY = (
    "data.shard_jobs",
    "training.distributed",
    "training.head_node",
    "training.launcher",
    "training.staging",
    "tuning.display",
    "tuning.replicate",
    "tuning.schedulers",
)
HEAVY = ("ray", "optuna", "cv2", "matplotlib", "onnx", "onnxruntime", "pyarrow", "pandas")


def modules(package):
    """Dotted names and syntax trees of the files of a package; a folder itself is its __init__."""
    found = {}
    for file in sorted((ROOT / package).rglob("*.py")):
        parts = file.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = ast.parse(file.read_text(encoding="utf-8"))
    return found


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


ROWS = {f"ttrnn.{module}": number for number, row in enumerate(LIBRARY) for module in row}


def test_every_module_of_the_library_imports_only_from_the_rows_above_it():
    alone = {"ttrnn.files", "ttrnn.reference"}
    assert not any(OWN_IMPORTS[name] for name in alone)
    for name in {name for name in TREES if name.startswith("ttrnn.")} - alone:
        assert name in ROWS, f"{name} has no place in the table at the head of this file"
        for target in OWN_IMPORTS[name] - {"ttrnn.files"}:
            assert ROWS[target] < ROWS[name], f"{name} imports {target}"


def allowed(package):
    """The packages of pipelines that a package may import."""
    return {*ORDER[: ORDER.index(ABOVE.get(package, package)) + 1], package}


def test_packages_of_the_pipelines_are_built_on_each_other_in_one_direction():
    for name in (name for name in TREES if name.startswith("pipelines.")):
        targets = [target.split(".") for target in OWN_IMPORTS[name] if target.startswith("pipelines.")]
        package = name.split(".")[1]
        for target in targets:
            assert target[1] not in COMMANDS, f"{name} imports the command {target[1]}"
            if package not in (*COMMANDS, "__main__"):
                assert target[1] in allowed(package), f"{name} imports {'.'.join(target)}"
        others = {target.split(".")[0] for target in imports(TREES[name])}
        short = name.removeprefix("pipelines.")
        assert "argparse" not in others or package == "core", f"{name} imports argparse"
        assert "ray" not in others or package == "cluster" or short in WITH_RAY, f"{name} imports ray"


FILES_OF_A_RUN = ("metrics.jsonl", "summary.json", "result.json", "state.pt", "learning-curve.png", "tracking.json")
FILES_OF_A_SWEEP = (
    "sweep.json", "study.journal", "plan.json", "trials.csv", "pareto.csv", "pareto.json", "pareto.png", "report.html",
)  # fmt: skip


@pytest.mark.parametrize(
    ("home", "files"),
    [("pipelines.training.run_directory", FILES_OF_A_RUN), ("pipelines.tuning.sweep_directory", FILES_OF_A_SWEEP)],
    ids=["run", "sweep"],
)
def test_file_names_of_a_run_or_a_sweep_are_spelled_in_one_module(home, files):
    spelled = {
        (name, node.value)
        for name, tree in TREES.items()
        if name.startswith("pipelines")
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and node.value in files
    }
    assert {name for name, _ in spelled} == {home}
    assert {value for _, value in spelled} == set(files)


def test_no_package_bears_the_name_of_a_command():
    assert not {*ORDER, *ABOVE} & set(COMMANDS)


def test_packages_are_built_on_each_other_in_one_direction():
    below = {"ttrnn": {"ttrnn"}, "search_spaces": {"ttrnn", "search_spaces"}, "pipelines": set(PACKAGES)}
    for name, tree in TREES.items():
        for target in OWN_IMPORTS[name]:
            assert target.split(".")[0] in below[name.split(".")[0]], f"{name} imports {target}"
            assert target != "ttrnn.reference", f"{name} imports the slow reference, which is for tests"
            assert target != "ttrnn" or name.startswith("pipelines"), f"{name} imports the package that it is part of"
        assert not any(target.split(".")[0] == "tests" for target in imports(tree)), f"{name} imports tests"


def test_search_spaces_need_nothing_of_the_library_but_shapes():
    shapes = {"ttrnn.shapes", "ttrnn.stem_shape", "ttrnn.formats", "ttrnn.network"}
    for name in TREES:
        if name.startswith("search_spaces"):
            assert {target for target in OWN_IMPORTS[name] if target.startswith("ttrnn")} <= shapes, name


def test_the_library_imports_torch_numpy_and_safetensors_and_nothing_heavier():
    for name in (name for name in TREES if name.startswith("ttrnn")):
        top_level = imports(
            ast.Module([node for node in TREES[name].body if isinstance(node, ast.Import | ast.ImportFrom)], [])
        )
        roots = {target.split(".")[0] for target in top_level}
        assert roots <= sys.stdlib_module_names | {"torch", "numpy", "safetensors", "ttrnn"}, name


def test_importing_the_library_loads_nothing_heavy():
    code = "import sys\n"
    # In one process, which loads torch once.
    for statement, absent in (
        ("import search_spaces", (*HEAVY, "torch")),
        ("import ttrnn.files", (*HEAVY, "torch")),
        ("import ttrnn.export", HEAVY),
        ("from ttrnn import *", HEAVY),
    ):
        code += f"{statement}\nprint({statement!r}, [name for name in {absent} if name in sys.modules])\n"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert len(result.stdout.splitlines()) == 4
    assert all(line.endswith(" []") for line in result.stdout.splitlines()), result.stdout


def test_every_module_says_what_it_is_and_what_it_offers():
    for name, tree in TREES.items():
        module = importlib.import_module(name)
        assert module.__doc__, f"{name} has no docstring"
        if len(tree.body) == 1:
            continue
        assert hasattr(module, "__all__"), f"{name} has no __all__"
        assert len(set(module.__all__)) == len(module.__all__), f"{name} has a name twice in __all__"
        for offered in module.__all__:
            assert hasattr(module, offered), f"{name} offers {offered}, which it does not have"


def test_the_commands_are_those_of_the_design():
    with_main = {name for name, tree in TREES.items() for node in tree.body if getattr(node, "name", None) == "main"}
    assert with_main == {f"pipelines.{command}" for command in [*COMMANDS, "__main__"]}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_explains_all_its_options(command, capsys, monkeypatch):
    module, seen, run = importlib.import_module(f"pipelines.{command}"), [], commands.run
    monkeypatch.setattr(
        commands, "run", lambda options_class, *args: (seen.append(options_class), run(options_class, *args))[1]
    )
    # Of the terminal that argparse wraps its lines for.
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as stopped:
        module.main(["--help"])
    assert stopped.value.code == 0
    text, (options_class,) = capsys.readouterr().out, seen
    assert f"-m pipelines.{command}" in text
    explained = field_help(options_class)
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
