"""Published networks that are not here, told by the names in their files.

A file of one of them gets its name and what can be taken of it, in place of a long table of what an
HMR would want. Names: the state dicts of the projects (``checkpoint_layouts.csv.xz`` beside the
tests).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from humandata.training.weight_files import File


@dataclass(frozen=True)
class Other:
    """A network that is not here.

    Attributes
    ----------
    name : str
    names : tuple of str
        Regular expressions; each is found in the name of a tensor.
    why : str
        Why it is not taken for something else that its tensors would fit.
    """

    name: str
    names: tuple[str, ...]
    why: str = ""


META_HMR = Other(
    "Meta-HMR",
    (r"^(backbone|encoder)\.downsample_stage_1\.", r"^fc1\.weight$"),
    "its regressor runs ten times where those of SPIN and CLIFF run three",
)

OTHERS = (
    Other("GraphCMR", (r"^graph_cnn[./]", r"^smpl_param_regressor[./]")),
    Other("GraphCMR", (r"^gc\.0\.W$", r"^camera_fc\.")),
    Other("Mesh Graphormer", (r"^trans_encoder\.\d\.bert\.", r"\.graph_conv\.")),
    Other("METRO", (r"^trans_encoder\.\d\.bert\.",)),
    Other("3DNBF", (r"^feature_bank\.", r"^head\.upsample_layers\.")),
    Other("PARE", (r"^head\.keypoint_deconv_layers\.", r"^head\.smpl_deconv_layers\.")),
    Other("HMR 2.0 (4D-Humans)", (r"^smpl_head\.transformer\.",)),
    Other("BEDLAM's CLIFF", (r"^backbone\.downsample_stage_1\.", r"^head\.fc1\.weight$")),
    META_HMR,
)


def other_network(file: File) -> Other | None:
    """Which of the networks that are not here a file holds."""
    for other in OTHERS:
        if all(any(re.search(pattern, key) for key in file.tensors) for pattern in other.names):
            return other
    return META_HMR if _is_meta_hmr(file) else None


def _is_meta_hmr(file: File) -> bool:
    """On ResNet-50 its tensors are named and shaped as SPIN's and, flat, as CLIFF's.

    Its files hold a second network beside the first, which SPIN's do not; and nobody else has
    CLIFF's tensors all on one level.
    """
    if "model_aux" in file.beside:
        return True
    regressor = file.tensors.get("fc1.weight")
    return (
        "conv1.weight" in file.tensors
        and regressor is not None
        and tuple(regressor.shape[1:]) == (2048 + 3 + 157,)
    )
