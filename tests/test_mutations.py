"""The list of faults that `python -m tests.support.mutation` puts into a copy of the tree stays true of the
tree.
"""

from __future__ import annotations

import pytest

from tests.conftest import ROOT
from tests.mutations import MUTATIONS, Mutation


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_fault_has_its_place_and_its_tests(mutation: Mutation) -> None:
    text = (ROOT / mutation.file).read_text(encoding="utf-8")
    assert text.count(mutation.old) == 1
    assert mutation.new != mutation.old
    assert all((ROOT / name.partition("::")[0]).exists() for name in mutation.tests)
