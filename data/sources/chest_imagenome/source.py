"""Chest ImaGenome: its splits and scene graphs, with the images and reports of MIMIC-CXR.

The files that the authors of SGRRG made from both are read instead if they are among the sources, see
`data.sources.chest_imagenome.release`.
"""

from argparse import ArgumentParser, Namespace
from functools import partial

from data.errors import UserError
from data.sources.chest_imagenome.release import ReleaseSource, has_release
from data.sources.chest_imagenome.scene_graphs import KNOWN_IMAGES, read_splits, split_tables
from data.sources.distributions import Contents, search_sources
from data.sources.mimic_cxr.source import Listing, MimicSource, Options, add_report_arguments
from data.sources.preparation import add_common_arguments, prepare


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options of `python -m data.prepare chest_imagenome`."""
    add_common_arguments(parser)
    add_report_arguments(parser)


def run(arguments: Namespace) -> None:
    """Run the command."""
    contents = search_sources(arguments.source)
    if has_release(contents):
        source = ReleaseSource(arguments.source, contents, arguments.labels, arguments.image_size)
    else:
        labels = Options.labels if arguments.labels is None else str(arguments.labels)
        options = Options(arguments.section, labels=labels, graph_required=True)
        listing = find_listing(contents)
        source = MimicSource("chest_imagenome", arguments.source, contents, listing, options, arguments.image_size)
    prepare(source, arguments.out, arguments.image_size, arguments.workers, arguments.boxes)


def find_listing(contents: Contents) -> Listing:
    """Return the images of Chest ImaGenome's splits, without those to avoid. Raises UserError if there is no table."""
    tables = split_tables(contents)
    if not tables:
        raise UserError(
            "The sources have no splits/train.csv, valid.csv or test.csv of Chest ImaGenome: "
            "give the folder with its silver_dataset as a --source"
        )
    avoided = contents.table("images_to_avoid")
    origin = ", ".join(path.name for path in tables.values()) + " of Chest ImaGenome"
    if avoided is not None:
        origin += f", without {avoided.name}"
    return Listing("chest_imagenome", origin, KNOWN_IMAGES, "frontal", partial(read_splits, tables, avoided))
