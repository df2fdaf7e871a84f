"""Images from anywhere: sources, decoded images, and batches whose order is a function of the step."""

from common.data.build import build_source
from common.data.images import Images, load_images, paired
from common.data.loader import Batch, Loader, in_order
from common.data.source import Labels, MultiLabels, Source, Subset
from common.data.split import check_classes, match_classes, split_source, stratified_folds, stratified_split

__all__ = [
    "Batch",
    "Images",
    "Labels",
    "Loader",
    "MultiLabels",
    "Source",
    "Subset",
    "build_source",
    "check_classes",
    "in_order",
    "load_images",
    "match_classes",
    "paired",
    "split_source",
    "stratified_folds",
    "stratified_split",
]
