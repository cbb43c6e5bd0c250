"""`simile train`: train an encoder."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated

from typer import Option

from simile.cli import options
from simile.cli.progress import ProgressReporter, format_figures
from simile.core.errors import BadUsage


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Options of a training: the fields of TrainingRequest, and settings of the recipe."""

    recipe: Annotated[
        str | None,
        Option(
            help="vae, autoencoder, denoising, perceptual, supervised, invariant or compression. "
            "[default: invariant for photographs, perceptual for small images]"
        ),
    ] = None
    epochs: Annotated[int | None, Option(min=1, help="Maximum number of epochs; early stopping can end sooner.")] = None
    minutes: Annotated[
        float | None,
        Option(
            min=0.01,
            max=options.MAX_DURATION,
            help="Maximum training time; reading files, and --teacher, count for at most a fifth of it. "
            "[default: 3 from an encoder, else 10, unless --epochs]",
        ),
    ] = None
    image_size: Annotated[
        int | None, Option(min=16, max=256, help="Side of the encoder input in pixels. [default: by the images]")
    ] = None
    fit: Annotated[
        str | None, Option(help="stretch, letterbox or crop: how images become square. [default: stretch]")
    ] = None
    latent_dim: Annotated[int | None, Option(min=1, max=4096, help="Length of μ. [default: 64]")] = None
    labels: Annotated[
        str | None, Option(help="For the supervised recipe: folders (named by class), or a CSV file.")
    ] = None
    start_from: Annotated[
        str | None,
        Option(
            "--from",
            help="Encoder to start from: shipped, a fingerprint or a folder; none for new weights. "
            "[default: shipped for photographs, unless options contradict it]",
        ),
    ] = None
    teacher: Annotated[
        str | None,
        Option(
            help="Learn the neighbours by this encoder (name, folder or fingerprint): a small encoder with "
            "reconstructions that follows a large one."
        ),
    ] = None
    teacher_weight: Annotated[
        float | None, Option(min=0, help="Weight of the teacher's neighbours against reconstructions. [default: 4]")
    ] = None
    drawn: Annotated[
        int, Option(min=0, max=10_000_000, help="Train on so many images drawn by simile, besides PHOTOS.")
    ] = 0
    decoder_only: Annotated[
        str | None, Option(help="Train only a decoder, for this encoder (name, folder or fingerprint).")
    ] = None
    architecture: Annotated[
        str | None, Option(help="convolutional, patches, residual, dense, or a torchvision name such as resnet18.")
    ] = None
    bottleneck: Annotated[str | None, Option(help="dense or convolutional. [default: dense]")] = None
    width: Annotated[int | None, Option(min=4, help="Channels of the first layer, or dense units.")] = None
    weights: Annotated[
        str | None, Option(help="Initial weights of a torchvision architecture: published, or a file. [default: none]")
    ] = None
    corrupt: Annotated[
        str | None,
        Option(help="Corrupt the input: noise, mask, salt, blur, shift, mirror; for example noise=0.3,mask."),
    ] = None
    features: Annotated[
        str | None,
        Option(help="Features to reconstruct besides pixels: gradients, ms-ssim, vgg16, vgg16:FILE, an encoder, none."),
    ] = None
    feature_weight: Annotated[float | None, Option(min=0, help="Weight of the feature loss.")] = None
    beta: Annotated[float | None, Option(min=0, help="Weight of the KL term. [default: 1]")] = None
    free_bits: Annotated[float | None, Option(min=0, help="Nats per latent dimension without KL penalty.")] = None
    kl_warmup_steps: Annotated[int | None, Option(min=0, help="Steps until the KL term has its full weight.")] = None
    likelihood: Annotated[str | None, Option(help="gaussian or bernoulli; for an autoencoder also l2 or l1.")] = None
    variance: Annotated[
        str | None, Option(help="Variance of the Gaussian: optimal, learned or a number. [default: optimal]")
    ] = None
    binarise: Annotated[
        bool | None, Option("--binarise", help="Sample each pixel as 0 or 1, for the Bernoulli likelihood.")
    ] = None
    batch_size: Annotated[int | None, Option(min=2, help="Images in a step. [default: 128; less for few images]")] = (
        None
    )
    learning_rate: Annotated[float | None, Option(min=1e-9, help="Maximum learning rate. [default: 0.001]")] = None
    patience_epochs: Annotated[
        int | None,
        Option("--patience", min=1, help="Stop after this number of epochs without improvement. [default: 6]"),
    ] = None
    seed: Annotated[int, Option(min=0, max=options.MAX_BIGINT, help="Random seed (weights, split, noise).")] = 0
    resume: Annotated[bool, Option("--resume", help="Continue an interrupted run after its last epoch.")] = False


def train(
    training: TrainOptions,
    common: options.EncoderOptions,
    photos: options.OptionalPhotosArgument = None,
    include: options.IncludeOption = None,
    exclude: options.ExcludeOption = None,
) -> None:
    """Train an encoder on PHOTOS and add it to the home, with a report (curves, reconstructions, samples).

    For photographs the training starts from the encoder that comes with simile, and adapts it to PHOTOS.
    """
    from simile.indexer.training.dataset import TrainingRequest
    from simile.indexer.training.train import train_on_sources

    if not photos and not training.drawn:
        raise BadUsage("Give PHOTOS to train on, or --drawn N.")
    values = dict(vars(training))
    names = {field.name for field in fields(TrainingRequest)} & values.keys()
    of_request = {name: values.pop(name) for name in names}
    request = TrainingRequest(overrides=values, **of_request)
    patterns = options.make_patterns(include, exclude)
    with ProgressReporter("The last finished epoch is saved; continue with --resume.", json=common.json) as reporter:
        trained = train_on_sources(common.load_settings(), photos or [], request, reporter.on_training, patterns)
    if not trained["improved"]:
        common.show(trained, f"encoder {trained['fingerprint']} is kept: the training did not improve it")
        return
    best = format_figures(trained["best"]["validation"])
    lines = [
        f"encoder {trained['fingerprint']}{' (now active)' if trained['active'] else ''}",
        f"best epoch {trained['best_epoch']}: {best}; stopped: {trained['stopped']}",
        f"report: {trained['folder']}",
    ]
    if not trained["active"]:
        lines.append(f"another encoder is active; switch with `simile index PHOTOS --encoder {trained['fingerprint']}`")
    common.show(trained, lines)
