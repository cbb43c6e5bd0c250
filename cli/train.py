"""Commands that work on many files: train, index, embed."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from simile.cli import options, output
from simile.cli.progress import ProgressReporter, format_figures
from simile.core.settings import Settings, load_settings

DEFAULT_TRAINING_MINUTES = 10.0  # of training, where neither minutes nor epochs are given


def train(
    photos: options.PhotosArgument,
    home: options.HomeOption = None,
    include: options.IncludeOption = None,
    exclude: options.ExcludeOption = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="vae, autoencoder, denoising, perceptual, supervised, invariant or compression. "
            "[default: invariant for photographs, perceptual for small pictures]"
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="At most so many; early stopping may come first.")] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            max=options.MAX_DURATION,
            help="Time budget; reading counts for a fifth at most. [default: 10 unless --epochs]",
        ),
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(min=16, max=256, help="Side of the network's input. [default: by the pictures]")
    ] = None,
    fit: Annotated[
        str | None, typer.Option(help="stretch, letterbox or crop other shapes into the square. [default: stretch]")
    ] = None,
    latent_dim: Annotated[int | None, typer.Option(min=1, max=4096, help="Length of μ. [default: 64]")] = None,
    labels: Annotated[
        str | None, typer.Option(help="For the supervised recipe: folders (named by class), or a CSV file.")
    ] = None,
    decoder_only: Annotated[
        str | None, typer.Option(help="Train a decoder over this encoder (folder or fingerprint), which stays.")
    ] = None,
    architecture: Annotated[
        str | None, typer.Option(help="convolutional, patches, residual, dense, or a torchvision one such as resnet18.")
    ] = None,
    bottleneck: Annotated[str | None, typer.Option(help="dense or convolutional. [default: dense]")] = None,
    width: Annotated[int | None, typer.Option(min=4, help="Channels after the first halving, or dense units.")] = None,
    weights: Annotated[
        str | None, typer.Option(help="Of a torchvision architecture: published, or a file. [default: none]")
    ] = None,
    corrupt: Annotated[
        str | None, typer.Option(help="Corrupt the input: noise, mask, salt, blur, shift, mirror; noise=0.3,mask.")
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(help="What to give back beside pixels: gradients, ms-ssim, vgg16, vgg16:FILE, an encoder, none."),
    ] = None,
    feature_weight: Annotated[float | None, typer.Option(min=0, help="Weight of the features.")] = None,
    beta: Annotated[float | None, typer.Option(min=0, help="Weight of the KL term. [default: 1]")] = None,
    free_bits: Annotated[float | None, typer.Option(min=0, help="Nats that each latent dimension has free.")] = None,
    kl_warmup_steps: Annotated[int | None, typer.Option(min=0, help="Steps until the KL term counts fully.")] = None,
    likelihood: Annotated[
        str | None, typer.Option(help="gaussian or bernoulli; for an autoencoder also l2 and l1.")
    ] = None,
    variance: Annotated[
        str | None, typer.Option(help="Of the Gaussian: optimal, learned, or a number. [default: optimal]")
    ] = None,
    binarise: Annotated[
        bool | None, typer.Option("--binarise", help="Draw each pixel as 0 or 1 anew each time, for bernoulli.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=2, help="Pictures a step. [default: 128, fewer if few]")] = None,
    learning_rate: Annotated[float | None, typer.Option(min=1e-9, help="At its highest. [default: 0.001]")] = None,
    patience: Annotated[
        int | None, typer.Option(min=1, help="Stop when so many epochs were no better. [default: 6]")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Of weights, split and noise.")] = 0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last epoch of a run that was cut off.")
    ] = False,
    device: options.DeviceOption = None,
    json: options.JsonOption = False,
    verbose: options.VerboseOption = False,
) -> None:
    """Train an encoder on PHOTOS and put it into the home, with a report (curves, reconstructions, samples)."""
    from simile.indexer.training.train import TrainingRequest, train_on_sources

    if minutes is None and epochs is None and not resume:  # a resumed run keeps its own budget
        minutes = DEFAULT_TRAINING_MINUTES
    overrides = {
        "epochs": epochs,
        "latent_dim": latent_dim,
        "architecture": architecture,
        "bottleneck": bottleneck,
        "width": width,
        "weights": weights,
        "corrupt": corrupt,
        "features": features,
        "feature_weight": feature_weight,
        "beta": beta,
        "free_bits": free_bits,
        "kl_warmup_steps": kl_warmup_steps,
        "likelihood": likelihood,
        "variance": variance,
        "binarise": binarise,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "patience_epochs": patience,
    }
    request = TrainingRequest(
        recipe,
        overrides,
        minutes,
        image_size,
        fit,  # type: ignore[arg-type]  # checked where it is used
        seed,
        resume,
        labels,
        decoder_only,
    )
    settings = load_settings(home=home, device=device)
    patterns = options.make_patterns(include, exclude)
    with ProgressReporter("The last finished epoch is kept: go on with --resume.", json=json) as reporter:
        trained = train_on_sources(settings, photos, request, reporter.on_training, patterns)
    if json:
        output.write_json(trained)
        return
    best = trained["best"]["validation"]
    output.write(
        f"encoder {trained['fingerprint']}{' (now in use)' if trained['active'] else ''}\n"
        f"best epoch {trained['best_epoch']}: {format_figures(best)}; stopped: {trained['stopped']}\n"
        f"report: {trained['folder']}"
    )
    if not trained["active"]:
        output.write(f"another encoder is in use; switch with `simile index PHOTOS --encoder {trained['fingerprint']}`")


def _load_named_or_active_encoder(settings: Settings, reference: str | None) -> Any:
    from simile.search.encoder_registry import find_encoder
    from simile.search.searcher import Searcher
    from simile.store.home import Home

    if reference is not None:
        return find_encoder(Home(settings.home, settings.database_url), reference, settings.device, settings.runtime)
    with Searcher(settings) as searcher:
        return searcher.get_encoder()
