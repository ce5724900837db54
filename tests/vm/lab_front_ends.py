# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) 2026 uvdpa contributors
"""
Runs inside the laboratory, see test_lab_front_ends.py: the cells of the table of front ends and drivers that name it.
usage: lab_front_ends.py MODULES, the folder of the kernel's modules.
"""

import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "integration"))
import lab_vdpa  # noqa: E402, found by the path just set
import test_front_ends  # noqa: E402


class Cells(test_front_ends.Cells):
    test = "lab_front_ends"
    at_once = 1  # there is one CPU
    least = 9


if __name__ == "__main__":
    lab_vdpa.load(sys.argv[1])
    test_front_ends.setUpModule()
    loaded = unittest.defaultTestLoader.loadTestsFromTestCase(Cells)
    sys.exit(not unittest.TextTestRunner(stream=sys.stdout, verbosity=2).run(loaded).wasSuccessful())
