"""What the import hook checks calls with: beartype, which takes an int for a float, and leaves Literals alone."""

import inspect

from beartype import BeartypeConf, beartype

CONFIG = BeartypeConf(is_pep484_tower=True)


def check(function):
    """`beartype(function)` without the annotations that mention a Literal: tests give wrong words on purpose.

    A function within a function is made anew in every call, and making its checks takes longer than most calls: it has them
    only where its signature says a shape, as in `Float[Tensor, "batch"]`. Its plain types are mypy's.
    """
    hints = inspect.get_annotations(function, eval_str=False)
    if "<locals>" in function.__qualname__ and not any(mark in str(hint) for hint in hints.values() for mark in "\"'"):
        return function
    function.__annotations__ = {name: hint for name, hint in hints.items() if "Literal" not in str(hint)}
    return beartype(conf=CONFIG)(function)
