"""The whole test run checks shapes and types of jepakit's signatures, and repeats itself exactly."""

import hypothesis
import jaxtyping
import torch

# Before any test imports jepakit. `shape_checks` lies beside this file.
jaxtyping.install_import_hook("jepakit", "shape_checks.check")

hypothesis.settings.register_profile("jepakit", deadline=None, derandomize=True, max_examples=30, database=None)
hypothesis.settings.load_profile("jepakit")

torch.set_num_threads(1)
