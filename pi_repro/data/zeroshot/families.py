"""Which family a set belongs to: named assignments, of which a card's `settings.family_map` chooses one.

Rule: an assignment never changes once results were reported with it; another opinion gets another name. The
paper names five families and says of no set in which it is; the only published assignment is a later plan's.
"""

from __future__ import annotations

from collections.abc import Mapping

IMAGENET = "ImageNet"
OOD = "ImageNet-OOD"
VTAB = "VTAB"
FINE = "Fine-grained & Specialty"
SMALL = "Domain & Small"
RETRIEVAL = "Retrieval"


def _map(**members: str) -> dict[str, str]:
    names = {"imagenet": IMAGENET, "ood": OOD, "vtab": VTAB, "fine": FINE, "small": SMALL, "retrieval": RETRIEVAL}
    return {name: names[family] for family, ids in members.items() for name in ids.split()}


_OOD = "imagenetv2 imagenet_sketch imagenet-a imagenet-r imagenet-o objectnet"
_VTAB = (
    "vtab-caltech101 vtab-cifar100 vtab-cifar10 vtab-clevr_count_all vtab-clevr_closest_object_distance vtab-dtd "
    "vtab-eurosat vtab-flowers vtab-pets vtab-pcam vtab-resisc45 vtab-svhn"
)
_RETRIEVAL = "flickr30k mscoco_captions"

#: name of an assignment -> set id -> family.
MAPS: Mapping[str, Mapping[str, str]] = {
    # The assignment of a later plan of the same group [D]; ImageNet-O and ObjectNet, which it lacks, are put beside
    # the other ImageNet variants (inferred).
    "plan-1": _map(
        imagenet="imagenet1k",
        ood=_OOD,
        vtab=_VTAB,
        fine="cars fgvc_aircraft food101 sun397 birdsnap country211",
        small="mnist stl10 gtsrb vtab-kitti_closest_vehicle_distance renderedsst2 voc2007",
        retrieval=_RETRIEVAL,
    ),
    # By the names of clip_benchmark's collections: KITTI and SUN397 are of VTAB's nineteen.
    "collections-1": _map(
        imagenet="imagenet1k",
        ood=_OOD,
        vtab=f"{_VTAB} vtab-kitti_closest_vehicle_distance sun397",
        fine="cars fgvc_aircraft food101 birdsnap country211",
        small="mnist stl10 gtsrb renderedsst2 voc2007",
        retrieval=_RETRIEVAL,
    ),
}


def family_of(name: str, listed: str, chosen: str) -> str:
    """A set's family by an assignment; a set that it does not know keeps the family that its card lists."""
    return MAPS[chosen].get(name, listed)
