from importlib import import_module

from seglens.cohorts.layout_table import LAYOUTS
from seglens.cohorts.layouts import Layout
from seglens.cohorts.source_options import PARTICULAR


def test_every_row_is_a_layout_of_its_name() -> None:
    for name, module in LAYOUTS.items():
        layout = import_module(module).LAYOUT
        assert isinstance(layout, Layout)
        assert layout.name == name
        assert layout.options <= set(PARTICULAR)
        assert layout.looks_like
