"""Evaluation protocols: everything a figure depends on besides the network, as plain data.

A figure without its protocol says little: 3DPW results in print differ in joints, genders and
roots. Each protocol here has a name and a version, is printed beside the figures and stored with
them.

A protocol of one's own is ``dataclasses.replace(PROTOCOLS["pw3d-test"], name="mine", stride=10)``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from humandata import keypoints
from humandata.errors import HumandataError
from humandata.keypoints import LSP14_FROM_H36M17, LSP14_FROM_SMPL24


@dataclass(frozen=True)
class Protocol:
    """What is measured, on what, and how.

    Attributes
    ----------
    name : str
    version : int
        Raised whenever a change of this protocol would change a figure.
    title : str
        One line on where it is used.
    dataset, split : str
        What the store must hold; empty for any.
    frames : str
        In words, which rows are evaluated. Rows without a valid body never are.
    stride : int
        Every how manieth of those rows, from the first.
    expected_rows : int or None
        Number of those rows in the complete release, before the stride, where it is known.
    box : str
        Field of the box that a network's crop is cut by.
    box_factor : float or None
        How much larger than the tight extent that box is in the end, whatever the store's box is
        enlarged by. None: as the store has it, 1.2 times where it is tight.
    box_shape : str
        ``square``: about the centre, the longer side, no further enlargement.
    regressor : str
        Where joints come from, without translation: ``h36m``, the matrix of 17 rows that takes the
        posed mesh to joints; or ``smpl_24``, SPIN's 24 annotated joints, of which ten are those of
        the kinematic tree and nine are regressed by J_regressor_extra.
    joints : tuple of int
        Which of these joints count, selected after the root is subtracted.
    root : int, or tuple of int
        The joint that is subtracted from both sides; of several their mean.
    ground_truth : str
        What predictions are held against: the ``smpl`` bodies of the store, or its ``keypoints3d``
        (or ``keypoints3d_univ``, scaled to one height) where those are the 17 joints of the
        regressor, measured by a motion capture system. Of joints alone no mesh is known, and PVE
        cannot be had.
    ground_truth_body : tuple of str
        Body model of the ground truth by the store's gender: unknown, neutral, male, female.
    num_betas : int
        Leading shape coefficients of the ground truth that count.
    prediction_body : str
        Body model that predicted parameters are put into for the joints.
    pa_joints : str
        Joints that the similarity of PA-MPJPE is fitted to. All are visible here: ``all``.
    pve_body : str
        Body model that predicted parameters are put into for PVE: ``prediction`` (the one above) or
        ``ground truth`` (that of each row's ground truth).
    pve_root : str
        What is subtracted from both meshes: ``pelvis`` (the regressed root) or ``none``.
    """

    name: str
    version: int
    title: str
    dataset: str = ""
    split: str = ""
    frames: str = "every row with a valid SMPL body"
    stride: int = 1
    expected_rows: int | None = None
    box: str = "bbox_xywh"
    box_factor: float | None = None
    box_shape: Literal["square"] = "square"
    regressor: Literal["h36m", "smpl_24"] = "h36m"
    joints: tuple[int, ...] = LSP14_FROM_H36M17
    root: int | tuple[int, ...] = 0
    ground_truth: Literal["smpl", "keypoints3d", "keypoints3d_univ"] = "smpl"
    ground_truth_body: tuple[str, str, str, str] = ("neutral", "neutral", "male", "female")
    num_betas: int = 10
    prediction_body: Literal["neutral", "male", "female"] = "neutral"
    pa_joints: Literal["all"] = "all"
    pve_body: Literal["prediction", "ground truth"] = "prediction"
    pve_root: Literal["pelvis", "none"] = "pelvis"

    @property
    def joint_names(self) -> tuple[str, ...]:
        """Names of the joints that count, in their order."""
        of_regressor = keypoints.names(self.regressor)
        return tuple(of_regressor[row] for row in self.joints)

    def as_dict(self) -> dict[str, Any]:
        """Every field, ready for JSON."""
        return dataclasses.asdict(self)

    def in_words(self) -> list[tuple[str, str]]:
        """The protocol as (topic, sentence) pairs, for people."""
        unknown, others = self.ground_truth_body[0], self.ground_truth_body[1:]
        usual: dict[tuple[str, ...], str] = {
            ("neutral", "male", "female"): f"the store's gender (unknown as {unknown})",
            ("female", "male", "female"): "the store's gender, all who are not male as female",
            ("neutral", "neutral", "neutral"): "everybody neutral",
        }
        unusual = f"{', '.join(others)} for neutral, male, female in the store"
        truth = usual.get(others, unusual)
        enlarged = (
            "as the store has it (1.2 times the tight one)"
            if self.box_factor is None
            else f"{self.box_factor:g} times the tight extent"
        )
        pve = {
            "prediction": f"predicted parameters in the {self.prediction_body} body",
            "ground truth": "predicted parameters in the body of the ground truth",
        }[self.pve_body]
        count = len(keypoints.names(self.regressor))
        middle = f"joint {self.root}"
        if isinstance(self.root, tuple):
            middle = f"middle of joints {' and '.join(map(str, self.root))}"
        source = {
            "h36m": "J_regressor_h36m on the posed mesh",
            "smpl_24": "SPIN's annotated joints: kinematic ones and J_regressor_extra",
        }[self.regressor]
        root = {
            "pelvis": f"regressed {middle} subtracted from both meshes",
            "none": "no root subtracted, translation left out",
        }[self.pve_root]
        stride = "" if self.stride == 1 else f"; every {self.stride}th row"
        bodies = f"SMPL of {truth}, first {self.num_betas} betas"
        joints = f"the 17 joints of {self.ground_truth} as released, in metres"
        without = [("PVE", "not known: the ground truth has joints and no mesh")]
        return [
            ("protocol", f"{self.name} (version {self.version}): {self.title}"),
            ("rows", self.frames + stride),
            ("crop", f"{self.box} {enlarged}, made {self.box_shape} by the longer side"),
            (
                "joints",
                f"{len(self.joints)} of the {count} of {source} "
                f"(rows {','.join(map(str, self.joints))})",
            ),
            ("root", f"{middle} of the {count} subtracted from both sides first"),
            ("ground truth", bodies if self.ground_truth == "smpl" else joints),
            ("prediction", f"SMPL {self.prediction_body}"),
            ("PA-MPJPE", f"similarity fitted to {self.pa_joints} joints of each sample"),
            *([("PVE", f"{pve}; {root}")] if self.ground_truth == "smpl" else without),
        ]


_PW3D = Protocol(
    name="pw3d-test",
    version=1,
    title="3DPW test as commonly reported (SPIN's eval.py; PVE with pelvis-aligned meshes)",
    dataset="pw3d",
    split="test",
    frames="every person of every frame of the test split with campose_valid",
    # VIBE issue 57 and TCMR issue 32 give this count for the rule above; VIBE's own is 34,561.
    expected_rows=35_515,
    box_factor=1.2,
    # SPIN: 'm' is male, everything else female.
    ground_truth_body=("female", "female", "male", "female"),
)

_H36M_P2 = Protocol(
    name="h36m-p2",
    version=1,
    title="Human3.6M protocol 2: S9 and S11, frontal camera, PA-MPJPE (HMR, SPIN, mmhuman3d)",
    dataset="h36m",
    split="test_p2",
    frames="S9 and S11, camera 60457274, every 5th frame",
    ground_truth="keypoints3d",
)

# The usual test figures of MPI-INF-3DHP: SPIN's eval.py takes all 17 joints for MPJPE and PA-MPJPE;
# the release's own evaluation takes the first 14 of its order for PCK at 150 mm and AUC, those of
# LSP. Both are on univ_annot3, skeletons scaled to one height, whatever a network was trained on.
# SPIN leaves out whoever has a joint outside of the picture (convert --filter spin).
_3DHP = Protocol(
    name="mpi-inf-3dhp-test",
    version=1,
    title="MPI-INF-3DHP test, MPJPE over 17 joints of one height (SPIN's eval.py)",
    dataset="mpi_inf_3dhp",
    split="test",
    frames="TS1 to TS6, every frame with valid_frame",
    expected_rows=2_929,
    box_factor=1.2,
    joints=(*LSP14_FROM_H36M17, 0, 7, 9),
    ground_truth="keypoints3d_univ",
)

# Neutral fits of EFT. hmr-benchmarks names these sets, but its code as published cannot evaluate
# them, so nobody can say by which joints its figures were made. By default they go the way of 3DPW:
# joints regressed from the fitted mesh. The other way of its code, for sets whose ground truth has
# 24 joints, is kept as a protocol of its own. Boxes as released.
_EFT = Protocol(
    name="eft-coco-val",
    version=1,
    title="EFT-COCO validation, the neutral fits as ground truth",
    dataset="eft",
    split="coco_val",
    frames="every fit of the release",
    expected_rows=10_510,
    ground_truth_body=("neutral", "neutral", "neutral", "neutral"),
)

PROTOCOLS: Mapping[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        _PW3D,
        dataclasses.replace(
            _PW3D,
            name="pw3d-test-mmhuman3d",
            title="3DPW test as mmhuman3d and hmr-benchmarks compute it (differs in PVE only)",
            pve_body="ground truth",
            pve_root="none",
        ),
        _H36M_P2,
        dataclasses.replace(
            _H36M_P2,
            name="h36m-p1",
            title="Human3.6M protocol 1: S9 and S11, all four cameras, MPJPE",
            split="test_p1",
            frames="S9 and S11, four cameras, every 5th frame",
        ),
        _3DHP,
        dataclasses.replace(
            _3DHP,
            name="mpi-inf-3dhp-test-14",
            title="MPI-INF-3DHP test, 3DPCK and AUC over 14 joints (the release's evaluation)",
            joints=LSP14_FROM_H36M17,
        ),
        _EFT,
        dataclasses.replace(
            _EFT,
            name="eft-lspet-test",
            title="EFT-LSPET test, the neutral fits as ground truth",
            split="lspet_test",
            expected_rows=2_433,
        ),
        dataclasses.replace(
            _EFT,
            name="eft-ochuman-test",
            title="EFT-OCHuman test, the neutral fits as ground truth",
            split="ochuman_test",
            expected_rows=1_783,
        ),
        *(
            dataclasses.replace(
                _EFT,
                name=f"{name}-24",
                title=f"{name} by SPIN's 24 joints, centred on the hips",
                split=split,
                expected_rows=rows,
                regressor="smpl_24",
                joints=LSP14_FROM_SMPL24,
                root=(2, 3),
            )
            for name, split, rows in (
                ("eft-coco-val", "coco_val", 10_510),
                ("eft-lspet-test", "lspet_test", 2_433),
                ("eft-ochuman-test", "ochuman_test", 1_783),
            )
        ),
        Protocol(
            name="smpl-gendered",
            version=1,
            title="any store with SMPL bodies, by the joints and root of pw3d-test",
        ),
    )
}
"""The named protocols. The first that names a store's dataset and split is that store's default."""

GENERIC = PROTOCOLS["smpl-gendered"]


@dataclass(frozen=True)
class Benchmark:
    """A name that ``humandata eval`` knows: a protocol, and where its store is looked for.

    Attributes
    ----------
    protocol : str
    store : str
        Name of the store inside ``$HUMANDATA_STORES``.
    made_by : str
        The command that makes the store.
    """

    protocol: str
    store: str
    made_by: str


def _benchmark(protocol: str, store: str) -> Benchmark:
    made_for = PROTOCOLS[protocol]
    command = f"humandata convert {made_for.dataset} RAW {store} --split {made_for.split}"
    return Benchmark(protocol, store, command)


BENCHMARKS: Mapping[str, Benchmark] = {
    "pw3d": _benchmark("pw3d-test", "pw3d_test.zarr"),
    "h36m": _benchmark("h36m-p2", "h36m_test_p2.zarr"),
    "mpi-inf-3dhp": _benchmark("mpi-inf-3dhp-test", "mpi_inf_3dhp_test.zarr"),
    "eft-coco": _benchmark("eft-coco-val", "eft_coco_val.zarr"),
    "eft-lspet": _benchmark("eft-lspet-test", "eft_lspet_test.zarr"),
    "eft-ochuman": _benchmark("eft-ochuman-test", "eft_ochuman_test.zarr"),
}


def named(name: str) -> Protocol:
    """The protocol of a name.

    Raises
    ------
    HumandataError
        If there is none; the message lists them.
    """
    if name not in PROTOCOLS:
        raise HumandataError(f"no protocol {name!r}; there are {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def default_for(dataset: str, split: str) -> Protocol:
    """The protocol made for this dataset and split, else `GENERIC`."""
    made_for = (p for p in PROTOCOLS.values() if p.dataset == dataset and p.split == split)
    return next(made_for, GENERIC)
