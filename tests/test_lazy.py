"""What starts fast stays fast, and the rooms of the house keep their order."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"
HEAVY = {"torch", "numpy", "sklearn", "matplotlib", "PIL", "tyro", "einops", "jaxtyping", "safetensors"}
SAY_MODULES = "import sys; print(*sorted({name.split('.')[0] for name in sys.modules}), file=sys.stderr)"

# cli -> verbs -> pages, worlds, evaluation, streaming, training, interop -> systems -> core, modalities, masks -> nn: a room
# may import its own row and those below.
ROWS: list[set[str]] = [
    {"cli", "commands", "__main__", "__init__"},
    {"verbs"},
    {"pages", "worlds", "evaluation", "streaming", "training", "interop"},
    {"systems"},
    {"core", "modalities", "masks"},
    {"nn"},
    {"_version", "collectives", "device", "errors", "files", "native", "randomness", "registry"},
]
FREE_OF_MODALITY = {"core": {"core", "nn", "masks"}, "masks": {"masks", "nn"}, "nn": {"nn"}}
# What evaluation may know of modalities: their contract, and files that maps of labels lie in.
EVALUATED = ("jepakit.modalities.modality", "jepakit.modalities.files.")
CONFIG = "config"  # a run's full config: its section classes are imported when they are asked for
# Arrows that break the law, until the contracts say what these modules ask of a class.
EXCEPTIONS: set[tuple[str, str]] = set()
LATE = {"jepakit.cli", "jepakit.commands", "jepakit.config", "jepakit.core.anticollapse.characteristic"}


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
    """Return the modules of jepakit that a file imports, inside functions too; not those for the type checker alone."""
    tree = ast.parse(path.read_text("utf-8"))
    for_types = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for child in ast.walk(node)
    }
    modules = set()
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            # `from jepakit import commands` names a module, `from jepakit.errors import UserError` does not.
            named = {f"{node.module}.{alias.name}" for alias in node.names}
            modules |= {name if name in MODULES else node.module for name in named}
    return {name for name in modules if name and name.split(".")[0] == "jepakit"} - {"jepakit"}


def room(module):
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


MODULES = {
    ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((SOURCE / "jepakit").rglob("*.py"))
}
ARROWS = {module: imports(path) - {module} for module, path in MODULES.items()}


def forbidden(module, other):
    """Return the law that an import breaks; None where it breaks none."""
    row_of = {name: number for number, row in enumerate(ROWS) for name in row}
    own, its = room(module), room(other)
    if CONFIG in (own, its) or its == "__init__":
        return "config and the package are for the rooms above systems" if row_of.get(own, 0) > row_of["training"] else None
    if own not in row_of or its not in row_of:
        return f"{own if own not in row_of else its} is a room that no row names"
    if own == its == "systems":
        return "systems never import one another"
    if row_of[its] < row_of[own]:
        return f"{its} stands above {own}"
    if its == "systems" and own != "systems":
        return "no module above systems names a system: the registry does"
    if own == "evaluation" and its == "modalities" and not other.startswith(EVALUATED):
        return "evaluation sees embeddings and labels of any modality"
    if own in FREE_OF_MODALITY and its not in FREE_OF_MODALITY[own] | ROWS[-1]:
        return f"{own} is free of {its}"
    return None


def broken(arrows):
    """Return each import that breaks a law, with the law."""
    laws = {(module, other): forbidden(module, other) for module, others in arrows.items() for other in others}
    return {arrow: law for arrow, law in laws.items() if law is not None}


def cycles(arrows):
    """Return the sets of modules that reach one another (Tarjan's strongly connected components of two and more)."""
    index, low, stack, found = {}, {}, [], []

    def visit(module):
        index[module] = low[module] = len(index)
        stack.append(module)
        for other in sorted(arrows.get(module, ())):
            if other not in index:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], index[other])
        if low[module] == index[module]:
            at = stack.index(module)
            if len(stack) - at > 1:
                found.append(sorted(stack[at:]))
            del stack[at:]

    for module in sorted(arrows):
        if module not in index:
            visit(module)
    return found


def test_arrows_go_one_way():
    laws = broken(ARROWS)
    new = {arrow: law for arrow, law in laws.items() if arrow not in EXCEPTIONS}
    assert not new, "\n".join(f"{module} imports {other}: {law}" for (module, other), law in sorted(new.items()))
    assert not EXCEPTIONS - set(laws), "exceptions that are none any more"


@pytest.mark.parametrize(
    ("module", "other"),
    [
        ("jepakit.systems.i_jepa", "jepakit.systems.lejepa"),
        ("jepakit.core.masked", "jepakit.modalities.modality"),
        ("jepakit.modalities.images.data", "jepakit.systems.i_jepa"),
        ("jepakit.pages.page", "jepakit.verbs.report"),
        ("jepakit.worlds.acting", "jepakit.verbs.act"),
        ("jepakit.interop.load", "jepakit.systems.i_jepa"),
        ("jepakit.evaluation.knn", "jepakit.modalities.images.data"),
        ("jepakit.masks.blocks", "jepakit.core.batch"),
        ("jepakit.nn.vit", "jepakit.config"),
        ("jepakit.nowhere.new", "jepakit.errors"),
    ],
)
def test_a_forbidden_arrow_is_seen(module, other):
    assert broken({module: {other}})


def test_no_module_imports_itself_through_others():
    """Imports inside functions count: none hides a cycle."""
    assert not cycles(ARROWS)
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]


def test_imports_inside_functions_are_for_speed_alone():
    """The package, the command line and the registry's places wait for torch; nothing else puts an import into a function."""
    inside = set()
    for module, path in MODULES.items():
        for function in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                inside |= {
                    (module, node.module)
                    for node in ast.walk(function)
                    if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "jepakit"
                }
    assert {module for module, _ in inside} == LATE
