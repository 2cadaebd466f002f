"""Several right labels an image, brought into a set's order ("Are we done with ImageNet?", Beyer et al. 2020).

Rule: the published labels are numbered like ImageNet's validation images, while a webdataset made from an image
folder has them by class. The WordNet ids of the validation images, by number, give the order back; it is used only
where they also give every single label of the set.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from pi_repro.errors import StateError

#: In a set's folder: a list with one list of class numbers an image, in the index's order.
FILE = "real_labels.json"


def in_folder_order(
    labels: Sequence[Sequence[int]], synsets: Sequence[str], found: Sequence[int], where: str
) -> list[list[int]]:
    """The label lists in an image folder's order: by class, then by validation number.

    Args:
        labels: of validation image i, its right classes; none where people found none.
        synsets: of validation image i, its WordNet id; classes are numbered in their alphabetical order.
        found: the set's own labels, in its order.
        where: the set, for messages.

    Raises:
        StateError: the numbers differ, or the order does not give the set's labels.
    """
    if not len(labels) == len(synsets) == len(found):
        given = f"{len(labels)} label lists, {len(synsets)} WordNet ids, {len(found)} images"
        raise StateError("multi-label lists do not fit the set", where=where, given=given)
    number = {synset: at for at, synset in enumerate(sorted(set(synsets)))}
    order = sorted(range(len(synsets)), key=lambda at: (number[synsets[at]], at))
    wrong = sum(number[synsets[at]] != label for at, label in zip(order, found, strict=True))
    if wrong:
        raise StateError(
            "the set is not in the order of an image folder, so its images cannot be given several labels",
            where=where,
            given=f"{wrong} of {len(found)} labels differ",
            todo="leave real_labels out of the card's settings",
        )
    return [sorted({int(label) for label in labels[at]}) for at in order]


def parse(content: bytes, where: str) -> list[list[int]]:
    """A list of lists of class numbers, from JSON.

    Raises:
        StateError: it is none.
    """
    try:
        lists = json.loads(content)
        if not isinstance(lists, list) or not all(isinstance(label, int) for one in lists for label in one):
            raise ValueError("not a list of lists of numbers")
    except (ValueError, TypeError) as error:
        raise StateError("no multi-label lists", where=where, given=str(error)[:200]) from None
    return lists
