"""A recording in memory: the tables of facts.py as pandas frames.

Nothing here judges; the frames hold what was recorded, with names in place of ids.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from gradscope.recording import names
from gradscope.recording.facts import BY_NAME, Table
from gradscope.recording.frames import named, names_of, present, root, series, with_moments
from gradscope.recording.ranks import Part, put_together
from gradscope.recording.schema import Rows


class Recording:
    """What was recorded of a training.

    Each table is a tidy pandas frame, made when it is first asked for: ``gradients``, ``updates``,
    ``activations``, ``units``, ``sketches``, ``steps``, ``events``, ``losses``, ``parameters``,
    ``modules``, ``alarms``, ``examined``, ``through_time``, ``gradchecks``, ``trials``. Columns
    and units stand in ``gradscope.recording.facts``. In row tables ``parameter`` and ``module``
    are names (categorical); the ids stand beside them as ``parameter_id`` and ``module_id``.
    ``gradients`` also has ``norm``, ``rms`` and ``mean``, ``activations`` has ``rms`` and ``mean``,
    ``updates`` has ``ratio``; all three are computed from the stored sums.

    Attributes:
        run: facts about the run by key, see ``facts.RUN_KEYS``.
        lost: sentences about what could not be read back (a torn tail, a missing rank); empty if
            all was.
        path: the run folder, or None for a recording that lives in memory.
        alive: whether a process was writing it when it was read.
        shards: recordings of the run's other ranks (``rank1``) and forked processes
            (``rank0-fork4711``) by the name of their files; the frames here are those of the
            lowest rank.
    """

    def __init__(
        self,
        rows: Mapping[str, Rows],
        records: Mapping[str, list[dict[str, Any]]],
        *,
        blobs: Mapping[str, bytes] | None = None,
        lost: Iterable[str] = (),
        path: str | None = None,
        alive: bool = False,
    ) -> None:
        """Take the tables as they are stored.

        Args:
            rows: row tables by name, structured arrays of ``Table.dtype``.
            records: record tables by name, in the order in which they were written.
            blobs: byte strings of row tables that have one; ``offset`` points into them.
            lost: see the class.
            path: see the class.
            alive: see the class.
        """
        self._rows = dict(rows)
        self._records = {name: list(items) for name, items in records.items()}
        self._blobs = dict(blobs or {})
        self.lost = tuple(lost)
        self.path = path
        self.alive = alive
        self.shards: dict[str, Recording] = {}
        self.run: dict[str, Any] = {}
        for item in self._records.get("run", []):
            self.run[item["key"]] = item.get("value")

    def with_shards(self, others: Mapping[str, Recording], lost: Iterable[str]) -> Recording:
        """This recording with other ranks' beside it and what was lost of the whole run."""
        joined = Recording(
            self._rows,
            self._records,
            blobs=self._blobs,
            lost=(*self.lost, *lost),
            path=self.path,
            alive=self.alive,
        )
        joined.shards = dict(others)
        return joined

    def completed_by(self, ranks: Mapping[int, Recording]) -> tuple[Recording, list[str]]:
        """This recording with sharded parameters put together from all ranks, see ``ranks.py``.

        Args:
            ranks: the recordings of all ranks by rank, this one among them.

        Returns:
            The recording, and sentences about what could not be put together.
        """
        others = [(rank, other) for rank, other in sorted(ranks.items()) if other is not self]
        own = next((rank for rank, other in ranks.items() if other is self), 0)
        parts = [Part(own, self._rows, self._records)]
        parts += [Part(rank, other._rows, other._records) for rank, other in others]
        rows, records, said = put_together(parts)
        if not rows and not records:
            return self, said
        completed = Recording(
            {**self._rows, **rows},
            {**self._records, **records},
            blobs=self._blobs,
            lost=self.lost,
            path=self.path,
            alive=self.alive,
        )
        return completed, said

    # ------------------------------------------------------------------ frames

    @cached_property
    def gradients(self) -> pd.DataFrame:
        """Gradients as the optimizer used them: a row for each sampled step and parameter."""
        frame = self._frame(BY_NAME["gradients"])
        frame["norm"] = root(frame["sum_sq"])
        return with_moments(frame)

    @cached_property
    def updates(self) -> pd.DataFrame:
        """What each step really did to each parameter."""
        frame = self._frame(BY_NAME["updates"])
        with np.errstate(all="ignore"):
            ratio = root(frame["delta_sq"] / frame["before_sq"])
        # a parameter that is exactly zero has no relative change: absent, not infinite
        frame["ratio"] = ratio.where(frame["before_sq"] > 0)
        return frame

    @cached_property
    def activations(self) -> pd.DataFrame:
        """Inputs and outputs of modules and the gradients at both."""
        frame = with_moments(self._frame(BY_NAME["activations"]))
        frame["source_id"] = frame.pop("source")
        return frame

    @cached_property
    def units(self) -> pd.DataFrame:
        """States of the units of each activation; the bits are read by ``unit_states``."""
        return self._frame(BY_NAME["units"])

    @cached_property
    def sketches(self) -> pd.DataFrame:
        """Index of the sketches; the numbers are read by ``vectors("sketches", "values")``."""
        return self._frame(BY_NAME["sketches"])

    @cached_property
    def steps(self) -> pd.DataFrame:
        """One row a step."""
        return self._record_frame(BY_NAME["steps"])

    @cached_property
    def events(self) -> pd.DataFrame:
        """The ordered calls of the training loop."""
        return self._record_frame(BY_NAME["events"])

    @cached_property
    def losses(self) -> pd.DataFrame:
        """Loss operations found in the graph, free of scaling, with their trivial baseline."""
        return self._record_frame(BY_NAME["losses"])

    @cached_property
    def parameters(self) -> pd.DataFrame:
        """One row a parameter, as last recorded, indexed by id, with its ``name``."""
        frame = self._record_frame(BY_NAME["parameters"], last_by="parameter")
        frame["name"] = names_of(frame["parameter"], self.parameter_names)
        frame["module_name"] = names_of(frame["module"], self.module_names)
        return frame.set_index("parameter", drop=False)

    @cached_property
    def modules(self) -> pd.DataFrame:
        """One row a module, as last recorded, indexed by id, with its ``name``."""
        frame = self._record_frame(BY_NAME["modules"], last_by="module")
        frame["name"] = names_of(frame["module"], self.module_names)
        return frame.set_index("module", drop=False)

    @cached_property
    def alarms(self) -> pd.DataFrame:
        """Facts made by the trip-wire."""
        return self._record_frame(BY_NAME["alarms"])

    @cached_property
    def examined(self) -> pd.DataFrame:
        """What the look at the operations of early steps found."""
        return self._record_frame(BY_NAME["examined"])

    @cached_property
    def features(self) -> pd.DataFrame:
        """Statistics of each feature of the roots' inputs and of the targets."""
        return self._record_frame(BY_NAME["features"])

    @cached_property
    def through_time(self) -> pd.DataFrame:
        """The gradient at the input of each recurrent module by distance from the last time step.

        A row for each sampled step and module; ``bins`` holds ``[first, last, rms]`` lists.
        """
        frame = self._record_frame(BY_NAME["through_time"])
        frame["name"] = names_of(frame["module"], self.module_names)
        return frame

    @cached_property
    def gradchecks(self) -> pd.DataFrame:
        """Results of finite-difference checks."""
        return self._record_frame(BY_NAME["gradchecks"])

    @cached_property
    def trials(self) -> pd.DataFrame:
        """What came of the fixes that were tried."""
        return self._record_frame(BY_NAME["trials"])

    # ------------------------------------------------------------------ names and texts

    @cached_property
    def module_names(self) -> dict[int, str]:
        """Qualified name of each module by id; ``""`` is the root."""
        return names.module_names(self._last("modules", "module"))

    @cached_property
    def parameter_names(self) -> dict[int, str]:
        """Qualified name of each parameter by id."""
        return names.parameter_names(
            self._last("parameters", "parameter"), self._last("modules", "module")
        )

    @cached_property
    def sources(self) -> dict[str, str]:
        """Text of the user's files by path, as it was when the run began."""
        return {item["file"]: item["text"] for item in self._records.get("sources", [])}

    # ------------------------------------------------------------------ what is there

    def has(self, fact: str) -> bool:
        """Whether ``fact`` (``table`` or ``table.column``) was recorded at least once."""
        return self.count(fact) > 0

    def count(self, fact: str) -> int:
        """Different steps with a value for ``fact``; records, for a table without steps.

        Raises:
            KeyError: there is no such fact in facts.py.
        """
        name, _, column = fact.partition(".")
        table = BY_NAME[name]
        if column:
            table.column(column)
        if table.rows:
            rows = self._rows.get(name)
            if rows is None or not len(rows):
                return 0
            if column and table.column(column).width == 1:
                rows = rows[present(rows[column])]
            return len(np.unique(rows["step"]))
        items = self._records.get(name, [])
        if column:
            items = [item for item in items if item.get(column) is not None]
        if any(c.name == "step" for c in table.columns) and name not in ("parameters", "modules"):
            return len({item["step"] for item in items})
        return len(items)

    def vectors(self, table: str, column: str) -> npt.NDArray[Any]:
        """Values ``[rows, width]`` of a wide column, aligned with the table's frame."""
        rows = self._rows.get(table)
        if rows is None:
            width = BY_NAME[table].column(column).width
            return np.zeros((0, width), dtype=BY_NAME[table].column(column).dtype)
        return np.asarray(rows[column])

    def unit_states(self, row: int) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
        """Unit states behind one row of ``units``.

        Args:
            row: position of the row in the frame.

        Returns:
            ``active`` ``[looked_at]``: whether each unit was active at least once in the step, and
            ``slope`` ``[looked_at]``: its mean slope, 0 to 1 (NaN where slopes were not recorded).
        """
        item = self._rows["units"][row]
        start, looked_at = int(item["offset"]), int(item["looked_at"])
        raw = np.frombuffer(self._blobs["units"][start : start + int(item["length"])], np.uint8)
        bits = (looked_at + 7) // 8
        active = np.unpackbits(raw[:bits], count=looked_at, bitorder="little").astype(np.bool_)
        slope = np.full(looked_at, np.nan, np.float32)
        if len(raw) >= bits + looked_at:
            np.divide(raw[bits : bits + looked_at], 255, out=slope)
        return active, slope

    @property
    def limits(self) -> tuple[str, ...]:
        """Sentences about what could not be observed or read back."""
        return (*_sentences(self.run.get("limits")), *self.lost)

    @property
    def assumptions(self) -> tuple[str, ...]:
        """Sentences about what was inferred."""
        return _sentences(self.run.get("assumptions"))

    def export(self, to: str, out: str | os.PathLike[str]) -> list[Path]:
        """Write the recording as ``parquet``, ``csv`` or ``tensorboard`` into the folder ``out``.

        Returns:
            The files.

        Raises:
            UsageError: no such format, pyarrow is not installed, or a file cannot be written.
        """
        from gradscope.recording.export import export

        return export(self, to, out)

    def __repr__(self) -> str:
        model = self.run.get("model", "?")
        return (
            f"<Recording of {model}: {len(self._records.get('steps', []))} steps, "
            f"{self.count('gradients')} sampled, {len(self.parameter_names)} parameters, "
            f"{len(self.module_names)} modules>"
        )

    # ------------------------------------------------------------------ making frames

    def _last(self, table: str, key: str) -> list[dict[str, Any]]:
        latest: dict[Any, dict[str, Any]] = {}
        for item in self._records.get(table, []):
            latest[item[key]] = item
        return [latest[identity] for identity in sorted(latest)]

    def _frame(self, table: Table) -> pd.DataFrame:
        rows = self._rows.get(table.name)
        if rows is None:
            rows = np.zeros(0, table.dtype)
        data = {c.name: np.ascontiguousarray(rows[c.name]) for c in table.columns if c.width == 1}
        frame = pd.DataFrame(data)
        for column, known in (("parameter", self.parameter_names), ("module", self.module_names)):
            if column in frame:
                frame[f"{column}_id"] = frame[column]
                frame[column] = named(data[column], known)
        return frame

    def _record_frame(self, table: Table, last_by: str | None = None) -> pd.DataFrame:
        items = self._last(table.name, last_by) if last_by else self._records.get(table.name, [])
        data = {c.name: series([item.get(c.name) for item in items], c) for c in table.columns}
        return pd.DataFrame(data)


def _sentences(value: Any) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list | tuple) else ()
