"""`simile attribute`: learn, list, show, apply and remove attributes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from simile.cli import options, output
from simile.cli.progress import RESTART_HINT, ProgressReporter
from simile.core.atomic_write import write_output_file
from simile.core.errors import BadUsage

if TYPE_CHECKING:
    from simile.explore.attributes.directions import AttributeEntanglement
    from simile.search.attributes import Attribute

app = options.CommandGroup(
    help="Learn attributes from two sets of images; list, show, apply and remove them.", no_args_is_help=True
)

AttributeNameArgument = Annotated[
    str, Argument(metavar="NAME", help="Name of the attribute, such as smile.", show_default=False)
]


@app.command()
def learn(
    common: options.EncoderOptions,
    name: AttributeNameArgument,
    photos: Annotated[
        list[Path] | None, Argument(metavar="PHOTOS…", help="Labelled images, with --labels.", show_default=False)
    ] = None,
    labels: Annotated[
        str | None, Option(help="Labels of PHOTOS: folders, or a CSV file. The class NAME is compared with all others.")
    ] = None,
    of: Annotated[str | None, Option(help="The class, if it is not NAME.", show_default=False)] = None,
    positive: Annotated[
        list[Path] | None,
        Option(help="Folder, archive or file with the attribute; can be repeated.", show_default=False),
    ] = None,
    negative: Annotated[
        list[Path] | None, Option(help="The same without the attribute; can be repeated.", show_default=False)
    ] = None,
    where: Annotated[
        list[str] | None,
        Option(help='Instead: indexed images with this metadata, such as "smile=yes", against all others.'),
    ] = None,
    text: Annotated[
        str | None,
        Option(help='Instead: a text such as "smiling face", if the encoder has a text tower; needs no images.'),
    ] = None,
    against: Annotated[
        str | None, Option(help='The opposite of --text, such as "neutral face".', show_default=False)
    ] = None,
    seed: Annotated[int, Option(min=0, max=options.MAX_SEED, help="Random seed (held-out folds).")] = 0,
) -> None:
    """Learn an attribute for the active encoder, and measure how well it separates held-out images."""
    from simile.explore.attributes import directions, examples
    from simile.search import attributes

    sources = [bool(positive or negative), bool(where), labels is not None, text is not None]
    if sum(sources) != 1 or bool(positive) != bool(negative) or (text is None) != (against is None):
        raise BadUsage(
            "Give both --positive and --negative, or only --where, or --labels and PHOTOS, or --text and --against."
        )
    if bool(photos) != (labels is not None) or (of is not None and labels is None):
        raise BadUsage("PHOTOS, --labels and --of go together: give the images and their labels.")
    with common.open_searcher() as searcher:
        encoder = searcher.get_encoder().fingerprint
        attributes.check_attribute_name_free(searcher.home, encoder, name)
        with ProgressReporter(RESTART_HINT, json=common.json) as reporter:
            if labels is not None:
                found = examples.read_examples_from_labels(
                    searcher, photos or [], labels, of or name, reporter.on_stage
                )
            elif where:
                found = examples.load_examples_from_metadata(searcher, where)
            elif positive:
                found = examples.read_examples_from_files(searcher, positive, negative or [], reporter.on_stage)
            else:
                found = None
        if found is None:
            attribute = examples.make_attribute_of_texts(searcher, name, str(text), str(against))
        else:
            attribute = directions.learn_attribute(name, encoder, found, seed)
        others = attributes.load_attributes(searcher.home, encoder)
        entangled = directions.find_entangled_attributes(attribute, others)
        attributes.save_attribute(searcher.home, attribute)
    _show_attribute(common, attribute, entangled)


@app.command("list")
def list_attributes(common: options.CommonOptions) -> None:
    """List the attributes of the active encoder."""
    from simile.search import attributes

    with common.open_searcher() as searcher:
        found = attributes.load_attributes(searcher.home, searcher.get_encoder().fingerprint)
    lines = list(map(_format_attribute, found)) or ["no attributes: run `simile attribute learn NAME`"]
    common.show({"attributes": [_make_attribute_json(attribute, []) for attribute in found]}, lines)


@app.command()
def show(common: options.CommonOptions, name: AttributeNameArgument) -> None:
    """Show how well an attribute separates images, and which other attributes change with it."""
    from simile.explore.attributes.directions import find_entangled_attributes
    from simile.search import attributes

    with common.open_searcher() as searcher:
        encoder = searcher.get_encoder().fingerprint
        attribute = attributes.load_attribute(searcher.home, encoder, name)
        others = [other for other in attributes.load_attributes(searcher.home, encoder) if other.name != name]
    _show_attribute(common, attribute, find_entangled_attributes(attribute, others))


@app.command()
def remove(common: options.CommonOptions, name: AttributeNameArgument) -> None:
    """Remove an attribute of the active encoder."""
    from simile.search import attributes

    with common.open_searcher() as searcher:
        attributes.remove_attribute(searcher.home, searcher.get_encoder().fingerprint, name)
    common.show({"removed": name}, f"attribute {name} was removed")


@app.command()
def apply(
    common: options.EncoderOptions,
    name: AttributeNameArgument,
    image: options.ImageArgument = None,
    image_id: options.ImageIdOption = None,
    strength: Annotated[
        float, Option(help="1: the mean difference between images with and without it; negative: less of it.")
    ] = 1.0,
    output_path: options.PngOption = None,
) -> None:
    """Write an image, its reconstruction, and its reconstruction with the attribute."""
    query = options.get_query(image, image_id)
    _write_attribute_sheet(common, name, [query], [0.0, strength], output_path)


@app.command()
def sheet(
    common: options.EncoderOptions,
    name: AttributeNameArgument,
    images: Annotated[
        list[Path] | None, Argument(metavar="IMAGES…", help="Image files; need not be indexed.", show_default=False)
    ] = None,
    image_id: options.ImageIdsOption = None,
    strengths: Annotated[str, Option(help="A range such as -3..3, or numbers: --strengths=-1.5,0,2.")] = "-3..3",
    output_path: options.PngOption = None,
) -> None:
    """Write a contact sheet with a row for each image and a column for each strength."""
    from simile.explore.attributes.render import parse_strengths

    if not images and not image_id:
        raise BadUsage("Give at least one image file or --id.")
    inputs: list[Path | int] = [*(images or []), *(image_id or [])]
    _write_attribute_sheet(common, name, inputs, parse_strengths(strengths), output_path)


def _write_attribute_sheet(
    common: options.EncoderOptions,
    name: str,
    inputs: list[Path | int],
    strengths: list[float],
    output_path: Path | None,
) -> None:
    from simile.explore.attributes.render import render_attribute_sheet
    from simile.explore.latent.inputs import encode_inputs
    from simile.search import attributes

    options.check_output(output_path, (".png",), or_json=common.json)
    options.check_files(inputs)
    with common.open_searcher() as searcher:
        attribute = attributes.load_attribute(searcher.home, searcher.get_encoder().fingerprint, name)
        if output_path is not None:
            write_output_file(output_path, render_attribute_sheet(searcher, attribute, inputs, strengths))
        if common.json:
            points = encode_inputs(searcher, inputs)
            rows = [[attribute.shift(point.mu, strength).tolist() for strength in strengths] for point in points]
            output.write_json({"attribute": name, "strengths": strengths, "mu": rows, "output": output_path})
            return
    output.write(f"{output_path}: {len(inputs)} x {len(strengths)} images with {name}")


def _show_attribute(
    common: options.CommonOptions, attribute: Attribute, entangled: list[AttributeEntanglement]
) -> None:
    lines = [_format_attribute(attribute)]
    lines += [
        f"  changes {other.name} by {other.change:+.2f} for each step (cosine {other.cosine:+.2f})"
        for other in entangled
    ]
    counts = {
        "images were on both sides (equal bytes) and were skipped": attribute.contradictory,
        "files could not be read": attribute.unreadable,
    }
    notes = [f"{count:,} {text}" for text, count in counts.items() if count]
    common.show(_make_attribute_json(attribute, entangled), lines, *notes)


def _make_attribute_json(attribute: Attribute, entangled: list[AttributeEntanglement]) -> dict[str, Any]:
    from simile.search.attributes import ATTRIBUTE_ARRAYS

    values = {name: value for name, value in vars(attribute).items() if name not in ATTRIBUTE_ARRAYS}
    return {**values, "drags": list(map(vars, entangled))}


def _format_attribute(attribute: Attribute) -> str:
    auc, spread = attribute.auc, attribute.spread
    if not auc:
        return f"{attribute.name}  from two texts, without examples: its AUC is not known"
    return (
        f"{attribute.name}  held-out AUC: for ranking {auc['whitened']:.3f} ± {spread['whitened']:.3f}, "
        f"for decoding {auc['raw']:.3f} ± {spread['raw']:.3f}  "
        f"({attribute.positives:,} with, {attribute.negatives:,} without)"
    )
