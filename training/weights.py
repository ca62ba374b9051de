"""Published checkpoints as this package's own: recognise, map, report, write.

`recognise` looks at the names and shapes in a file alone. It knows whole networks of HMR and SPIN
(nkolot/SPIN, mmhuman3d, hmr-benchmarks on all its backbones) and of CLIFF (the authors' on
ResNet-50 and HRNet-W48, mmhuman3d's), and files of backbones alone (torchvision, timm, mmcls,
mmpose and original HRNet, Microsoft's Swin). `write` makes a file that ``humandata eval
--checkpoint`` (networks) and ``humandata train --init`` (both) take.

Nothing is taken silently: every tensor of the file and every tensor of the network is in one row of
`Recognised.rows`.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import humandata
from humandata.errors import DataError, HumandataError
from humandata.training import recipes
from humandata.training.backbone_variants import SUFFIX, VARIANTS
from humandata.training.backbone_weights import (
    STAYS_RANDOM,
    backbone_of,
    family,
    to_timm,
)
from humandata.training.backbones import Backbone
from humandata.training.heads import BOX, CAMERA, HEAD, POSE, SHAPE
from humandata.training.other_networks import Other, other_network
from humandata.training.recipes import Recipe
from humandata.training.weight_files import TRUNKS, File, Tensors, read
from humandata.training.weight_rows import (
    Row,
    grouped,
    in_words,
    make_row,
    rows_beside,
    rows_of_another,
    rows_unrecognised,
    shape_of,
)

ALONE = "only the backbone was asked for"

ALGORITHMS = ("hmr", "spin", "cliff", "cliff_original")


@dataclass(frozen=True)
class Recognised:
    """What a file holds.

    Attributes
    ----------
    file : Path
    description : str
        In words: "HMR on resnet50, as mmhuman3d saves it".
    algorithm : str or None
        None for a backbone alone, or where nothing was recognised.
    backbone : str or None
    image_size : int
    tensors : dict
        Under the names of this package's networks; of a backbone alone, under timm's.
    rows : tuple of Row
    reader, wrapper : str
        As `humandata.training.weight_files.File`.
    sha256 : str
        Of the file.
    other : Other, optional
        The network where it is a known one that is not here.
    trunk : str
        The backbone, where it could be taken alone; empty otherwise.
    """

    file: Path
    description: str
    algorithm: str | None
    backbone: str | None
    image_size: int
    tensors: Tensors
    rows: tuple[Row, ...]
    reader: str
    wrapper: str
    sha256: str
    other: Other | None = None
    trunk: str = ""

    @property
    def complete(self) -> bool:
        """Whether all that the network needs was found, and nothing that is not understood."""
        return self.backbone is not None and not any(row.wrong for row in self.rows)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready, names of taken tensors left out."""
        rows = [
            {
                "status": row.status,
                "part": row.part,
                "tensors": row.count,
                "why": row.why,
                "wrong": row.wrong,
                **({} if row.status == "taken" else {"names": list(row.names)}),
            }
            for row in self.rows
        ]
        return {
            **self.source(),
            "complete": self.complete,
            "other": None if self.other is None else self.other.name,
            "backbone_alone": self.trunk or None,
            "rows": rows,
        }

    def source(self) -> dict[str, Any]:
        """Where the weights come from, without the tensors."""
        return {
            "file": self.file.name,
            "sha256": self.sha256,
            "description": self.description,
            "algorithm": self.algorithm,
            "backbone": self.backbone,
            "image_size": self.image_size,
            "reader": self.reader,
            "wrapper": self.wrapper,
            "humandata": humandata.__version__,
        }


_DROPPED = (
    (r"(body_model|smpl|mano|smplx)(_train|_test|_layer|_native|_neutral|_male|_female)?\.",
     "a body model: licensed data that comes from your own files"),
    (r"disc\.|discriminator\.", "the discriminator of HMR's prior: for training only"),
    (r"(backbone\.|encoder\.|graph_cnn\.resnet\.)?(fc|head|head_dist|classifier|head\.fc)\."
     r"(weight|bias)$|head\.(layers\.head|fc)\.", "a classifier"),
    (r".*(relative_position_index|relative_coords_table|attn_mask)$",
     "an index that the network works out itself"),
    (r"(keypoint_head|decode_head|(head\.)?(deconv|conv)_layers|head\.final_layer|neck|loss\w*"
     r"|criterion)\.", "not part of a backbone"),
    (r"initialized$", "a mark of the training code, not part of a network"),
)  # fmt: skip
_UNUSED = (
    (r"final_layer\.(weight|bias)$", "heatmaps of joints: in the file, never used"),
    (r"(incre_modules|downsamp_modules|final_layer)\.", "the classifying part of HRNet"),
    (r"norm\.(weight|bias)$", "a final norm that this network does not apply"),
    (r"(fc_norm|pre_logits)\.", "before the classifier, which is not used"),
)


def recognise(path: Path, model: str | None = None) -> Recognised:
    """What a file of weights holds.

    Parameters
    ----------
    path : Path
        ``.safetensors`` or a PyTorch file.
    model : str, optional
        What to read it as, in place of guessing: ``ALGORITHM:BACKBONE``, or ``BACKBONE`` for the
        backbone of the file alone.

    Raises
    ------
    DataError
        When the file cannot be read or holds no tensors.
    HumandataError
        When there is no such model.
    """
    return recognise_tensors(read(path), path, _sha256(path), model)


def recognise_tensors(
    file: File, path: Path, digest: str = "", model: str | None = None
) -> Recognised:
    """The same of tensors that were read already; their shapes are all that is looked at."""
    wanted_algorithm, wanted_backbone = _parse_model(model)
    own = _own_recipe(file, path)
    other = other_network(file) if model is None and own is None else None
    head, trunk, rest, prefixed = _parts(file.tensors)
    names, origin = to_timm({key: tensor for key, (tensor, _) in trunk.items()})
    origin = {name: trunk[key][1] for name, key in origin.items()}
    mmcls = family(trunk).startswith("mmcls")

    backbone = wanted_backbone or (own.backbone if own else None) or backbone_of(names)
    if backbone is not None and wanted_backbone is None and own is None:
        extended = any(STAYS_RANDOM.match(name) for name in names if "stage4" not in name)
        pose = backbone == "hrnet_w32" and not any(n.startswith("incre_modules") for n in names)
        if backbone in VARIANTS and (mmcls or extended or head or pose):
            backbone += SUFFIX

    beside = tuple(rows_beside(file.beside, file.wrapper))
    found = Recognised(
        path, "not recognised", None, backbone, 224, {}, beside, file.reader, file.wrapper, digest,
        other, "" if model == backbone else _alone(file, path, backbone),
    )  # fmt: skip
    if other is not None:
        shown = [key for _, key in trunk.values()]
        rows = [*rows_of_another(file.tensors, shown, other.name, found.trunk)]
        described = f"{other.name} on {backbone}" if backbone else other.name
        return dataclasses.replace(found, description=described, rows=(*rows, *beside))
    if backbone is None:
        return dataclasses.replace(found, rows=(*rows_unrecognised(file.tensors), *beside))

    network, channels = _fresh(backbone, _crop(own))
    alone = wanted_backbone is not None and wanted_algorithm is None
    rows = [*_dropped(rest, alone)]
    taken = _match(names, origin, network, rows, whole=bool(head))
    algorithm = wanted_algorithm or (own.algorithm if own else None)
    if (head and model is None) or wanted_algorithm:
        algorithm = algorithm or _algorithm_of(head, channels, prefixed)
        tensors = {f"backbone.network.{name}": tensor for name, tensor in taken.items()}
        tensors |= _match_head(head, channels, algorithm, rows)
    else:
        algorithm, tensors = None, taken
        if head:
            rows.append(
                Row("left out", "regressor", len(head), ALONE,
                    tuple(shown for _, shown in head.values()))
            )  # fmt: skip
    size = own.image_size if own else 256 if (algorithm or "").startswith("cliff") else 224
    described = f"{algorithm.upper()} on {backbone}" if algorithm else f"backbone {backbone}"
    if algorithm:
        described = described.replace("CLIFF_ORIGINAL", "CLIFF (original)")
        described += f", {_style(prefixed, file, mmcls)}"
    if any(row.wrong for row in rows):
        described = f"parts of {described}"
    order = {"taken": 0, "left out": 1, "shape differs": 2, "missing": 3, "not known": 4}
    rows.sort(key=lambda row: (order[row.status], row.wrong))
    return dataclasses.replace(
        found,
        description=described,
        algorithm=algorithm,
        image_size=size,
        tensors=tensors,
        rows=(*rows, *beside),
    )


def _alone(file: File, path: Path, backbone: str | None) -> str:
    """The backbone, where it could be taken without the rest."""
    if backbone is None:
        return ""
    return backbone if recognise_tensors(file, path, model=backbone).complete else ""


def write(found: Recognised, out: Path) -> Path:
    """Write what was recognised as safetensors, and beside it where it comes from as JSON.

    Returns
    -------
    Path
        The JSON: ``out`` with that ending.

    Raises
    ------
    HumandataError
        When the file was not complete, or ``out`` cannot be written.
    """
    from safetensors.torch import save_file

    if not found.complete:
        raise HumandataError(f"{found.file} does not hold all of a network, and is not written")
    if out.suffix != ".safetensors":
        raise HumandataError(f"--out {out}: the name of the weights must end in .safetensors")
    description: dict[str, Any] = {"imported": found.source()}
    if found.algorithm is not None and found.backbone is not None:
        recipe = dataclasses.replace(
            Recipe(),
            algorithm=found.algorithm,
            backbone=found.backbone,
            image_size=found.image_size,
            init="none",
        )
        description |= {"step": 0, "recipe": recipes.to_dict(recipe)}
    note = out.with_suffix(".json")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = out.with_suffix(".partial")
        tensors = {name: tensor.contiguous() for name, tensor in found.tensors.items()}
        save_file(tensors, partial, {"format": "pt", "humandata": json.dumps(description)})
        partial.rename(out)
        note.write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise HumandataError(f"{out} could not be written: {error}") from error
    return note


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _parse_model(model: str | None) -> tuple[str | None, str | None]:
    if model is None:
        return None, None
    algorithm, colon, backbone = model.partition(":")
    if not colon:
        return None, model
    if algorithm not in ALGORITHMS:
        raise HumandataError(
            f"--as {model}: no algorithm {algorithm!r}; there are {', '.join(ALGORITHMS)}"
        )
    return algorithm, backbone


def _own_recipe(file: File, path: Path) -> Recipe | None:
    try:
        description = json.loads(file.metadata.get("humandata", "{}"))
        recipe = description.get("recipe")
        return recipes.from_dict(recipe) if recipe else None
    except (ValueError, AttributeError, TypeError) as error:
        raise DataError(
            path,
            "metadata 'humandata'",
            expected="the recipe of a run, as JSON",
            found=str(error),
            hint="Take the file of the checkpoint as humandata train wrote it.",
        ) from error


def _crop(own: Recipe | None) -> int | tuple[int, int]:
    """What the network of a recipe sees, which vision transformers are built for."""
    if own is None:
        return 224
    size = own.image_size
    return (size, size * 3 // 4) if own.algorithm.startswith("cliff") else size


Named = dict[str, tuple[Tensor, str]]


def _parts(tensors: Tensors) -> tuple[Named, Named, Tensors, bool]:
    """Regressor and trunk, by names without prefix, with the name in the file; and the rest."""
    prefixed = any(key.startswith(TRUNKS) for key in tensors)
    head: Named = {}
    trunk: Named = {}
    rest: Tensors = {}
    for key, tensor in tensors.items():
        bare = key.removeprefix("head.")
        inner = next((p for p in TRUNKS if key.startswith(p)), "") if prefixed else ""
        if bare in HEAD and not inner and bare not in head:
            head[bare] = tensor, key
        elif (
            any(re.match(pattern, key) for pattern, _ in _DROPPED)
            or (prefixed and not inner)
            or key.removeprefix(inner) in trunk  # the same under another prefix
        ):
            rest[key] = tensor
        else:
            trunk[key.removeprefix(inner)] = tensor, key
    return head, trunk, rest, any(key.startswith("head.") for _, key in head.values())


def _dropped(rest: Tensors, alone: bool) -> Iterable[Row]:
    groups: dict[str, list[str]] = {}
    for key in rest:
        why = next((why for pattern, why in _DROPPED if re.match(pattern, key)), "")
        groups.setdefault(why, []).append(key)
    for why, keys in groups.items():
        if why or alone:
            yield make_row("left out", keys, why or ALONE)
        else:
            for part, some in grouped(keys).items():
                yield Row("not known", part, len(some), "no part of a network that is here",
                          tuple(some), wrong=True)  # fmt: skip


def _match(
    names: Tensors, origin: Mapping[str, str], network: Tensors, rows: list[Row], whole: bool
) -> Tensors:
    """The trunk's tensors that the network has, and a row for each group of all others."""
    taken: Tensors = {}
    differ: list[str] = []
    unused: dict[str, list[str]] = {}
    for name, tensor in names.items():
        if name not in network:
            why = next((why for pattern, why in _UNUSED if re.match(pattern, name)), "")
            unused.setdefault(why, []).append(origin[name])
        elif tensor.shape != network[name].shape:
            differ.append(f"{origin[name]}: {shape_of(tensor)}, expected {shape_of(network[name])}")
        else:
            taken[name] = tensor
    rows += [make_row("taken", [origin[n] for n in some], "") for some in grouped(taken).values()]
    for why, keys in unused.items():
        if why:
            rows.append(make_row("left out", keys, why))
        else:
            rows.extend(make_row("not known", some, "not in this backbone", wrong=True)
                        for some in grouped(keys).values())  # fmt: skip
    if differ:
        rows.append(make_row("shape differs", differ, "made for another network", wrong=True))
    absent = [name for name in network if name not in names]
    counters = [name for name in absent if name.endswith("num_batches_tracked")]
    random = [name for name in absent if not whole and STAYS_RANDOM.match(name)]
    index = [name for name in absent if name.endswith("relative_position_index")]
    for some, why in (
        (counters, "a counter that old files lack: 0"),
        (random, "no backbone file has it: stays random, as in the reference"),
        (index, "worked out by the network"),
    ):
        if some:
            rows.append(make_row("missing", some, why))
    for name in counters:
        taken[name] = torch.zeros((), dtype=torch.int64)
    known = {*counters, *random, *index}
    for part, some in grouped([name for name in absent if name not in known]).items():
        rows.append(
            Row(
                "missing",
                part,
                len(some),
                "not in the file (names as they are here)",
                tuple(some),
                True,
            )
        )
    return taken


def _match_head(head: Named, channels: int, algorithm: str, rows: list[Row]) -> Tensors:
    box = BOX if algorithm.startswith("cliff") else 0
    shapes = {
        "fc1.weight": (1024, channels + box + POSE + SHAPE + CAMERA),
        "fc2.weight": (1024, 1024),
        "fc1.bias": (1024,),
        "fc2.bias": (1024,),
    }
    for layer, count in (("pose", POSE), ("shape", SHAPE), ("cam", CAMERA)):
        shapes[f"dec{layer}.weight"] = (count, 1024)
        shapes[f"dec{layer}.bias"] = (count,)
        shapes[f"init_{layer}"] = (1, count)
    taken: Tensors = {}
    same, differ = [], []
    for name, (tensor, shown) in head.items():
        if tuple(tensor.shape) == shapes[name]:
            taken[f"head.{name}"] = tensor
            same.append(shown)
        else:
            differ.append(f"{shown}: {shape_of(tensor)}, expected {in_words(shapes[name])}")
    if same:
        rows.append(make_row("taken", same, "", part="regressor"))
    if differ:
        why = f"not the regressor of {algorithm} on {channels} features"
        rows.append(make_row("shape differs", differ, why, wrong=True))
    absent = [f"head.{name}" for name in HEAD if name not in head]
    if absent:
        rows.append(
            make_row("missing", absent, "not in the file (names as they are here)", wrong=True)
        )
    return taken


def _algorithm_of(head: Named, channels: int, prefixed: bool) -> str:
    if "fc1.weight" in head and head["fc1.weight"][0].ndim == 2:
        extra = head["fc1.weight"][0].shape[1] - channels - POSE - SHAPE - CAMERA
        if extra == BOX:
            return "cliff" if prefixed else "cliff_original"
    return "hmr" if prefixed else "spin"


def _style(prefixed: bool, file: File, mmcls: bool) -> str:
    if "humandata" in file.metadata:
        return "as this package saves it"
    if prefixed:
        return "as hmr-benchmarks saves it" if mmcls else "as mmhuman3d and hmr-benchmarks save it"
    if any(key.startswith("encoder.") for key in file.tensors):
        return "as its authors save it"
    return "with all names on one level, as SPIN saves it"


@functools.cache
def _fresh(backbone: str, image_size: int | tuple[int, int] = 224) -> tuple[Tensors, int]:
    """Shapes of a backbone's tensors, and the length of its features."""
    with torch.device("meta"):
        network = Backbone(backbone, image_size=image_size)
    return dict(network.network.state_dict()), network.channels
