"""LSUV as code: weights whose scale the first batch decides (Mishkin and Matas 2016)."""

from __future__ import annotations

from collections.abc import Sequence

from gradscope.advise.fix import Edits
from gradscope.advise.initialising import add_behind, kinds_of, root_home
from gradscope.advise.insertion import at_module_level_before
from gradscope.advise.layers import CONVOLUTIONS, LINEAR, Layer
from gradscope.advise.names import spelled
from gradscope.advise.source import Source
from gradscope.recording.reader import Recording

_NOT_YET = ("Bilinear", "LazyLinear")
"""Two inputs; and, like every lazy layer, no weights before the first batch."""


def layers_for(layer: Layer, recording: Recording, source: Source) -> tuple[Layer, ...]:
    """The layers of one model that its first batch can scale; () where it must not.

    A weight that two layers share would be scaled twice, and several ranks would scale each by a
    batch of its own.
    """
    frame = recording.parameters
    ranks = recording.run.get("world_size") or 1
    tied = any(isinstance(names, list) and names for names in frame["aliases"])
    if tied or ranks != 1:
        return ()
    return tuple(
        one
        for one in source.layers.leaves
        if one.root == layer.root
        and one.torch_type in (*LINEAR, *CONVOLUTIONS)
        and one.torch_type not in _NOT_YET
        and not one.torch_type.startswith("Lazy")
    )


def plan(source: Source, layers: Sequence[Layer]) -> Edits:
    """A function in the file that builds the model, and its call behind the construction."""
    edits = Edits()
    place = root_home(source, layers[0]) if layers else None
    if place is None:
        return edits
    file = place.file
    function = file.free_name("lsuv", "scaled_by_first_batch")
    kinds, imports = kinds_of(file, sorted({layer.torch_type for layer in layers}))
    names: dict[str, str] = {}
    for used in ("no_grad", "clear_autocast_cache", "nn.init.orthogonal_", "nn.init.zeros_"):
        names[used.rpartition(".")[2]], more = spelled(file, f"torch.{used}")
        imports += more
    added = add_behind(place, [f"{function}({place.variable}, {kinds})"])
    if added is None:
        return edits
    definition = at_module_level_before(file, place.statement, _code(function, names))
    edits.add(file, [*imports, *definition, *added])
    return edits


def snippet(layers: Sequence[Layer]) -> str:
    """The same to adapt."""
    names = {
        "no_grad": "torch.no_grad", "clear_autocast_cache": "torch.clear_autocast_cache",
        "orthogonal_": "nn.init.orthogonal_", "zeros_": "nn.init.zeros_",
    }  # fmt: skip
    kinds = ", ".join(f"nn.{kind}" for kind in sorted({layer.torch_type for layer in layers}))
    lines = [*_code("lsuv", names), "", "", f"lsuv(model, ({kinds},))  # before the first batch"]
    return "\n".join(line.replace("\t", "    ") for line in lines)


def _code(function: str, names: dict[str, str]) -> list[str]:
    """LSUV's steps; one is enough where the bias is 0, because the output is linear then."""
    return [
        f"def {function}(model, kinds):",
        '\t"""On the first batch: orthogonal weights, scaled to an output of variance 1 (LSUV)."""',
        "",
        "\tdef set_weights(layer, inputs, output):",
        "\t\thandles.pop(layer).remove()",
        f"\t\twith {names['no_grad']}():",
        f"\t\t\t{names['orthogonal_']}(layer.weight)",
        "\t\t\tif layer.bias is not None:",
        f"\t\t\t\t{names['zeros_']}(layer.bias)",
        f"\t\t\t{names['clear_autocast_cache']}()",
        "\t\t\tspread = layer.forward(*inputs).std()",
        "\t\t\tif spread > 0:",
        "\t\t\t\tlayer.weight.div_(spread)",
        f"\t\t\t{names['clear_autocast_cache']}()",
        "\t\treturn layer.forward(*inputs)",
        "",
        "\tlayers = [layer for layer in model.modules() if isinstance(layer, kinds)]",
        "\thandles = {layer: layer.register_forward_hook(set_weights) for layer in layers}",
    ]
