"""What starts fast stays fast, and the rooms of the house keep their order."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"
HEAVY = {"torch", "numpy", "sklearn", "matplotlib", "PIL", "tyro", "einops", "jaxtyping", "safetensors"}
SAY_MODULES = "import sys; print(*sorted({name.split('.')[0] for name in sys.modules}), file=sys.stderr)"

# cli -> report, worlds, evaluation, training, interop -> systems -> core, modalities, masks -> nn: a room may import its own
# row and those below.
ROWS: list[set[str]] = [
    {"cli", "commands", "__main__", "__init__"},
    {"verbs"},
    {"report", "worlds", "evaluation", "training", "interop"},
    {"systems"},
    {"core", "modalities", "masks"},
    {"nn"},
    {"collectives", "errors", "files", "native", "randomness", "registry"},
]
# A package with a verb's name answers as the verb (only when called: nothing of it is imported before).
ALLOWED = {("jepakit.report.__init__", "jepakit.verbs.report")}
CONFIG = "config"  # a run's full config: its section classes are imported when they are asked for


@pytest.mark.parametrize(
    "code",
    [
        "import jepakit",
        "import jepakit.cli",
        "from jepakit.cli import main; main(['list'])",
        "from jepakit.cli import main; main(['list', 'sizes'])",
        "from jepakit.cli import main; main(['--help'])",
        "from jepakit.cli import main; main(['--version'])",
        "import jepakit; jepakit.list('evaluators')",
        "from jepakit.cli import main; assert main(['pretain']) == 2",
    ],
)
def test_no_heavy_import(code):
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{SAY_MODULES}"],
        env={"PYTHONPATH": str(SOURCE)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert not HEAVY & set(done.stderr.splitlines()[-1].split())


def test_the_verbs_of_the_package_are_found():
    import jepakit

    for name in jepakit.__all__:
        assert callable(getattr(jepakit, name))
    with pytest.raises(AttributeError, match="pretain"):
        jepakit.pretain  # noqa: B018


def imports(path):
    """Modules of jepakit that a file imports, inside functions too; not those for the type checker alone."""
    tree = ast.parse(path.read_text("utf-8"))
    for_types = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for child in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            # `from jepakit import commands` names a module, `from jepakit.errors import UserError` does not.
            found |= {f"jepakit.{alias.name}" for alias in node.names} if node.module == "jepakit" else {node.module}
    return {name for name in found if name and name.split(".")[0] == "jepakit"}


def room(module):
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


FILES = sorted((SOURCE / "jepakit").rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE / "jepakit")))
def test_arrows_go_one_way(path):
    own = ".".join(path.relative_to(SOURCE).with_suffix("").parts)
    row_of = {name: number for number, row in enumerate(ROWS) for name in row}
    own_room = room(own)
    for module in imports(path):
        other = room(module)
        if (own, module) in ALLOWED:
            continue
        if CONFIG in (own_room, other) or module in ("jepakit", "jepakit.__version__"):
            assert own_room not in {"core", "nn", "masks", "modalities", "systems"}, f"{own} imports {module}"
            continue
        if own_room == other == "systems":
            raise AssertionError(f"{own} imports the system {module}")
        assert row_of[other] >= row_of[own_room], f"{own} imports {module}, which stands above it"


@pytest.mark.parametrize("name", ["core", "nn", "masks"])
def test_what_is_free_of_modality_imports_no_modality(name):
    allowed = {"core": {"core", "nn", "masks"}, "nn": {"nn"}, "masks": {"masks", "nn"}}[name] | ROWS[-1]
    for path in (SOURCE / "jepakit" / name).rglob("*.py"):
        assert {room(module) for module in imports(path)} <= allowed, path
