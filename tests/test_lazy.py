"""What starts fast stays fast, and the rooms of the house keep their order."""

import ast
import re
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
CONFIG = "config"  # a run's full config: its section classes are imported when they are asked for
# Tenants: files that only the registry (or, of environments, their table) names. They may know their own data.
TENANTS = re.compile(r"jepakit\.(worlds\.(environments|\w+_environment)|interop\.released\.\w+)")
# A modality's own; what stands beside them (the contract, the base of data, labels, counting) is for all rooms.
OWN_FOLDERS = {path.name for path in (SOURCE / "jepakit" / "modalities").iterdir() if path.is_dir()} - {"files"}
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
    above = row_of[own] < row_of["systems"]
    if above and its == "modalities" and other.split(".")[2] in OWN_FOLDERS and not TENANTS.fullmatch(module):
        return "no module above systems names a modality's classes or data: it asks the object"
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
    assert not laws, "\n".join(f"{module} imports {other}: {law}" for (module, other), law in sorted(laws.items()))


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
        # What once stood there.
        ("jepakit.verbs.planning", "jepakit.systems.h_jepa"),
        ("jepakit.streaming.memory", "jepakit.systems.llm_jepa"),
        ("jepakit.evaluation.continuation", "jepakit.modalities.video.samples"),
        ("jepakit.evaluation.flow_error", "jepakit.modalities.video.moving_photographs"),
        ("jepakit.pages.data", "jepakit.verbs.report"),
        ("jepakit.worlds.acting", "jepakit.modalities.trajectories.inputs"),
        ("jepakit.verbs.evaluate", "jepakit.modalities.trajectories.data"),
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


ASKS_A_NAME = re.compile(r"modality\.name\s*(==|!=|(not )?in \()|modality\s+is(\s+not)?\s+[A-Z]{3}")


def test_no_room_above_systems_asks_for_a_modality_by_name():
    """`load_system(system).modality is modality` compares objects that were given; a name in capitals is one kind."""
    above = set().union(*ROWS[:3])
    lines = [
        f"{path.name}: {line.strip()}"
        for module, path in MODULES.items()
        if room(module) in above
        for line in path.read_text("utf-8").splitlines()
        if ASKS_A_NAME.search(line)
    ]
    assert not lines
    assert ASKS_A_NAME.search('if model.modality.name == "video":')
    assert ASKS_A_NAME.search("if modality is not IMAGES:")
