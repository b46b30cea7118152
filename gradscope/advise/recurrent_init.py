"""First weights of recurrent layers as code: what no single function of torch sets."""

from __future__ import annotations

from collections.abc import Sequence

from gradscope.advise.fix import Edits
from gradscope.advise.initialising import add_behind, home, kinds_of
from gradscope.advise.layers import Layer
from gradscope.advise.names import spelled
from gradscope.advise.patch import Edit
from gradscope.advise.placement import attribute_of
from gradscope.advise.schemes import FORGET, GATES, IDENTITY, SHRINKING
from gradscope.advise.source import Source
from gradscope.advise.source_file import SourceFile
from gradscope.advise.standing_init import Scheme, sets_all

GATE_COUNTS = {"LSTM": 4, "GRU": 3, "RNN": 1}
"""Gates whose matrices stand one above the other, by the type without ``Cell``."""
SHRINK = 0.9


def plan(source: Source, layers: Sequence[Layer], scheme: Scheme) -> Edits:
    """Edits that give recurrent layers this start; empty where there is no safe place.

    A file that sets recurrent weights itself, or all weights in a loop, gets none: lines of ours
    might be undone by its own.
    """
    edits = Edits()
    texts = "".join(file.text for file in source.files.values())
    if sets_all(source) or "weight_hh" in texts or "bias_ih" in texts:
        return edits
    for layer in layers:
        site = source.site(layer)
        place = home(source, layer) if site is not None else None
        if site is None or place is None:
            return Edits()
        file = place.file
        attribute = attribute_of(site.file, site.call)
        if attribute is not None and place.variable == "self":
            lines, imports = code(file, f"self.{attribute}", layer.torch_type, scheme)
        else:
            wanted, imports = kinds_of(file, [layer.torch_type])
            loop = file.free_name("module", "layer")
            inner, more = code(file, loop, layer.torch_type, scheme)
            lines = [
                f"for {loop} in {place.variable}.modules():",
                f"\tif isinstance({loop}, {wanted}):",
                *(f"\t\t{line}" for line in inner),
            ]
            imports = [*imports, *more]
        added = add_behind(place, lines)
        if added is None:
            return Edits()
        edits.add(file, [*imports, *added])
    return edits


def code(
    file: SourceFile | None, owner: str, torch_type: str, scheme: Scheme
) -> tuple[list[str], list[Edit]]:
    """Statements that set the weights of ``owner``, and the edits that import what they use.

    Args:
        file: where they are to stand; None for a snippet.
        owner: the layer, as the code calls it.
        torch_type: its type in torch.nn.
        scheme: one of those without a function.
    """
    imports: list[Edit] = []

    def init(function: str) -> str:
        if file is None:
            return f"nn.init.{function}"
        name, more = spelled(file, f"torch.nn.init.{function}")
        imports.extend(more)
        return name

    name, tensor = "name", "tensor"
    if file is not None:
        name, tensor = file.free_name("name", "key"), file.free_name("tensor", "values")
    kind = torch_type.removesuffix("Cell")
    hidden = f'{name}.startswith("weight_hh")'
    bias = f'{name}.startswith("bias")'
    forget = f'{tensor}.data.chunk(4)[1], 1.0 if {name}.startswith("bias_ih") else 0.0'
    lines = [f"for {name}, {tensor} in {owner}.named_parameters():"]
    if scheme == GATES:
        gate = "gate" if file is None else file.free_name("gate", "part")
        parts = GATE_COUNTS.get(kind, 1)
        each = f"{tensor}.data" if parts == 1 else gate
        lines += [f"\tif {hidden}:"]
        lines += [f"\t\tfor {gate} in {tensor}.data.chunk({parts}):"] if parts > 1 else []
        lines += [
            f"\t\t{chr(9) * (parts > 1)}{init('orthogonal_')}({each})",
            f"\telif {bias}:",
            f"\t\t{init('zeros_')}({tensor})",
        ]
        if kind == "LSTM":
            lines.append(f"\t\t{init('constant_')}({forget})")
        lines += ["\telse:", f"\t\t{init('xavier_uniform_')}({tensor})"]
    elif scheme in (IDENTITY, SHRINKING):
        lines += [f"\tif {hidden}:", f"\t\t{init('eye_')}({tensor})"]
        lines += [f"\t\t{tensor}.data.mul_({SHRINK})"] if scheme == SHRINKING else []
        lines += [f"\telif {bias}:", f"\t\t{init('zeros_')}({tensor})"]
    else:
        assert scheme == FORGET
        lines += [f"\tif {bias}:", f"\t\t{init('constant_')}({forget})"]
    return lines, imports
