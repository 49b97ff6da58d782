"""What the import hook checks calls with: beartype, which takes an int for a float, and leaves Literals alone."""

import inspect

from beartype import BeartypeConf, beartype

CONFIG = BeartypeConf(is_pep484_tower=True)


def check(function):
    """`beartype(function)` without the annotations that mention a Literal: tests give wrong words on purpose."""
    hints = inspect.get_annotations(function, eval_str=False)
    function.__annotations__ = {name: hint for name, hint in hints.items() if "Literal" not in str(hint)}
    return beartype(conf=CONFIG)(function)
