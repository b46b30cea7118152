"""The schema of a recording: every table, every column, its unit and its shape.

A recording is a set of tables. *Row tables* hold fixed-size numbers and are stored as packed
little-endian rows (one frame on disk holds the rows of one step); *record tables* hold small JSON
objects. Both are listed here and nowhere else: the writer packs what this file says, the reader
makes one pandas frame a table, and a rule names what it needs by ``table`` or ``table.column``.

Objects are identified by small integers (``parameter``, ``module``, ``site``) that the observer
gives in the order in which it meets them. Names are made by the reader at the end, so an object
that is found late renames nothing.

A statistic that was not recorded is absent: a missing row, NaN in a float column, -1 in an integer
column. It is never 0.
"""

from __future__ import annotations

from collections.abc import Iterator

from gradscope.recording.loop_tables import (
    ALARMS,
    EVENTS,
    EXAMINED,
    LOSSES,
    STEPS,
    THROUGH_TIME,
)
from gradscope.recording.model_tables import (
    FEATURES,
    GRADCHECKS,
    MODULES,
    PARAMETERS,
    RUN,
    SOURCES,
    TRIALS,
)
from gradscope.recording.row_tables import ACTIVATIONS, GRADIENTS, SKETCHES, UNITS, UPDATES
from gradscope.recording.schema import Column, Kind, Table
from gradscope.recording.words import (
    EXPONENT_BINS,
    EXPONENT_EDGES,
    RUN_KEYS,
    SAMPLE_SIZE,
    SCHEMA_VERSION,
    SKETCH_SIZE,
    UNITS_LIMIT,
    UPDATE_SAMPLE_SIZE,
    Activation,
    Role,
    State,
)

TABLES: tuple[Table, ...] = (
    GRADIENTS, UPDATES, SKETCHES, ACTIVATIONS, UNITS,
    STEPS, EVENTS, LOSSES, PARAMETERS, MODULES, ALARMS, EXAMINED, FEATURES, GRADCHECKS,
    SOURCES, RUN, TRIALS, THROUGH_TIME,
)  # fmt: skip
BY_NAME: dict[str, Table] = {table.name: table for table in TABLES}


def all_facts() -> Iterator[str]:
    """Every legal name of a fact: ``table`` and ``table.column``."""
    for table in TABLES:
        yield table.name
        for column in table.columns:
            yield f"{table.name}.{column.name}"


__all__ = [
    "ACTIVATIONS",
    "ALARMS",
    "BY_NAME",
    "EVENTS",
    "EXAMINED",
    "EXPONENT_BINS",
    "EXPONENT_EDGES",
    "FEATURES",
    "GRADCHECKS",
    "GRADIENTS",
    "LOSSES",
    "MODULES",
    "PARAMETERS",
    "RUN",
    "RUN_KEYS",
    "SAMPLE_SIZE",
    "SCHEMA_VERSION",
    "SKETCHES",
    "SKETCH_SIZE",
    "SOURCES",
    "STEPS",
    "TABLES",
    "THROUGH_TIME",
    "TRIALS",
    "UNITS",
    "UNITS_LIMIT",
    "UPDATES",
    "UPDATE_SAMPLE_SIZE",
    "Activation",
    "Column",
    "Kind",
    "Role",
    "State",
    "Table",
    "all_facts",
]
