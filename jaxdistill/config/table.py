"""The one table of options, by what they choose.

`Config` holds the options of a distillation. Its base classes are groups of options, which scripts combine
into options of their own. They are all in this module, so that a reader finds every option, its default and
its help in one place.
"""

from typing import ClassVar

from jaxdistill.config.option import Options, option, options
from jaxdistill.core.checks import LARGEST_SEED
from jaxdistill.evaluation.protocol import STEP_SIZES

STARTS = ("noise", "unit_noise", "real")
GRADIENTS = ("unrolled", "truncated", "accumulated", "implicit", "closed_form", "convexified", "auto")
FAILED_SOLVES = ("stop", "skip")
STRATEGIES = "jaxdistill.inner.over_learners:STRATEGIES"
OWN_NETWORK = "own"
"""The name of a network that the user gives as a `Learner`; it is in no registry."""
LEARNER_OPTIONS = ("width", "widths", "depth", "norm", "activation", "pooling", "kernel", "initialization")
"""The options of a network; they have the same meaning for every network."""


@options
class Places(Options):
    """The folders of data sets."""

    title: ClassVar[str] = "data"
    data_dir: str | None = option(None, "folder of prepared data sets (default: the user's cache folder)")
    manual_dir: str | None = option(None, "folder of the original files of the set, instead of a download")


@options
class StreamingOptions(Options):
    """Where training images lie, for scripts that need no more of them at once than a batch."""

    title: ClassVar[str] = "data"
    data_memory: str | None = option(
        None, "memory limit for training images, such as 2GB; a larger set stays on the host or the disk"
    )


@options
class ReadingOptions(Places):
    """How a data set is read: the keyword arguments of `jaxdistill.data.load`."""

    title: ClassVar[str] = "data"
    image_size: int | None = option(None, "resize images to this side, in pixels", low=1)
    fit: str = option(
        "crop",
        "with image_size, how images that are not square become square",
        known="jaxdistill.data.shaping:FITS",
    )
    channels: int | None = option(None, "1 makes images grey, 3 makes them colour", low=1, high=3)
    layout: str | None = option(
        None,
        "order of the axes in an .npz (default: nhwc; images that look like nchw are refused)",
        known="jaxdistill.data.arrays:LAYOUTS",
    )
    scale: float | None = option(
        None, "pixel value of white in an .npz (default: from the type and values of its pixels)", above=0
    )
    skip_broken: bool = option(False, "leave out pictures of a folder that cannot be decoded")
    validation_fraction: float | None = option(
        None,
        "fraction of the training images for validation, if the set has no such part (default: a sixth)",
        above=0,
        below=1,
    )
    test_fraction: float | None = option(
        None,
        "fraction of the images for testing, if the set has no test part (default: a fifth)",
        above=0,
        below=1,
    )
    preprocess: str = option(
        "standardise",
        "normalisation of images per channel; zca also whitens them (lambda 0.1)",
        known="jaxdistill.data.whitening:PREPROCESSINGS",
    )


@options
class DataOptions(ReadingOptions):
    title: ClassVar[str] = "data"
    dataset: str = option(
        "digits",
        "the data set: digits, mnist, fashion_mnist, kmnist, cifar10, cifar100, svhn_cropped, tiny_imagenet, "
        "usps; any prepared TFDS set; a folder, .zip or .tar with a folder of pictures per class; an .npz "
        "with x and y; a parquet file or folder of Hugging Face datasets",
    )


@options
class TeacherOptions(Options):
    title: ClassVar[str] = "teacher"
    teacher: str = option("images", "what the outer loop learns", known="jaxdistill.teachers:TEACHERS")
    images_per_class: int = option(1, "synthetic images per class, in all batches together", low=1)
    distill_steps: int = option(
        1, "number of distinct batches; with teacher=images it divides images_per_class", low=1, of="teacher"
    )
    distill_epochs: int = option(
        10,
        "passes over the batches: inner steps = distill_steps x distill_epochs; 1 for implicit gradients, "
        "which train to a tolerance, for closed_form and for convexified",
        low=1,
        of="inner",
    )
    start: str = option(
        "noise",
        "initial values of learned images; unit_noise is noise with every image scaled to norm 1",
        known=STARTS,
        of="teacher",
    )
    decoder: str = option(
        "none",
        "what is learned and stored instead of images: small images (multiformation), shared bases, a small "
        "network per image (field), frequencies (dct), a few colours (palette)",
        known="jaxdistill.teachers.decoders:DECODERS",
        of="teacher",
    )
    budget: str | None = option(
        None,
        "storage limit, instead of images_per_class: ipc:1 (the bits of one float32 image per class), "
        "scalars:7840 (numbers in all) or bits:25088 (bits per class)",
        of="teacher",
        keyword="decoder",
    )
    stored_as: str = option(
        "float32",
        "type of the stored numbers; the images that are exported and evaluated are rounded to it",
        known="jaxdistill.teachers.storage:STORED_AS",
        of="teacher",
    )
    labels: str = option(
        "probabilities",
        "kind of labels; free labels are learned, may have any value, and need squared losses",
        known="jaxdistill.core.labels:LABELS",
        of="teacher",
    )
    soft_labels: bool = option(False, "also learn the labels' probabilities", of="teacher")
    label_confidence: float = option(
        0.9, "with soft_labels, probability of the true class at the start", above=0, high=1, of="teacher"
    )
    curriculum: str = option(
        "full",
        "order of the images: as learned (full) or shuffled; a generator can also take fresh noise (none) or "
        "fixed noise",
        known="jaxdistill.teachers:CURRICULA",
    )
    batch_size: int | None = option(
        None,
        "images per batch of a generator (default: images_per_class x classes / distill_steps)",
        low=1,
        of="teacher",
    )
    architecture: str = option(
        "upsampling",
        "the generator's network",
        known="jaxdistill.teachers.networks:ARCHITECTURES",
        of="teacher",
    )
    generator_width: int | None = option(
        None, "filters of the upsampling generator, or width k of compact (default: 64)", low=1, of="teacher"
    )
    generator_hidden: int = option(
        1024, "units of the first layer of an upsampling generator", low=1, of="teacher"
    )
    upsamplings: int = option(
        2, "doublings of the image size in an upsampling generator", low=1, of="teacher"
    )
    weight_norm: bool | None = option(
        None, "normalise the generator's weights (default: upsampling yes, compact no)", of="teacher"
    )
    noise_size: int | None = option(
        None, "length of a noise vector z of the generator (default: 128; compact 64)", low=1, of="teacher"
    )
    distribution: str | None = option(
        None,
        "distribution of z (default: gaussian; compact uniform)",
        known="jaxdistill.teachers.generator:DISTRIBUTIONS",
        of="teacher",
    )
    steps_at_once: int | None = option(
        None,
        "inner steps whose images the generator makes at once (default: all); fewer take less memory",
        low=1,
        of="teacher",
    )


@options
class NetworkOptions(Options):
    title: ClassVar[str] = "learner"
    learner: str = option("mlp", "the network", known="jaxdistill.learners:LEARNERS", also=(OWN_NETWORK,))
    width: int | None = option(None, "hidden units or channels of the network", low=1, of="learner")
    widths: tuple[int, ...] | None = option(
        None, "channels of each block of a convnet, as in 128,256,512, in place of width", low=1, of="learner"
    )
    depth: int | None = option(None, "layers or blocks of the network", low=1, of="learner")
    norm: str | None = option(
        None, "normalisation of the network", known="jaxdistill.layers.modules:NORMS", of="learner"
    )
    activation: str | None = option(
        None,
        "activation function of the network",
        known="jaxdistill.layers.modules:ACTIVATIONS",
        of="learner",
    )
    pooling: str | None = option(
        None, "pooling of the network", known="jaxdistill.layers.modules:POOLINGS", of="learner"
    )
    kernel: int | None = option(None, "side of the network's convolution kernels", low=1, of="learner")
    initialization: str | None = option(
        None,
        "distribution of the network's initial weights",
        known="jaxdistill.layers.initializers:INITIALIZATIONS",
        of="learner",
    )


@options
class LearnerOptions(NetworkOptions):
    title: ClassVar[str] = "learner"
    num_shapes: int = option(
        0,
        "distill for this many networks of random width and depth (convnet, gtn, mlp), one per chunk_length "
        "outer steps; 0 for only the chosen network",
        low=0,
    )
    dtype: str = option(
        "float32",
        "type of activations in the networks to distill for; weights, statistics of norms, losses, "
        "generators and the networks that test the images stay float32",
        known="jaxdistill.learners.mixed_precision:DTYPES",
    )
    linearized: bool = option(
        False,
        "distill for the network linearised at its initial weights, whose training is convex; the network "
        "itself tests the images",
        of="inner",
    )
    population: str = option(
        "fresh",
        "networks to distill for: new networks every outer step (fresh), one network (fixed), networks that "
        "train between outer steps (persistent, ages), or pre-trained networks",
        known="jaxdistill.populations:POPULATIONS",
    )
    matches: int | None = option(
        None,
        "outer steps before a network is replaced (default: depends on images_per_class, as in DC)",
        low=1,
        of="population",
    )
    match_epochs: int | None = option(
        None,
        "epochs on the synthetic data between two outer steps of a network (default: depends on "
        "images_per_class)",
        low=0,
        of="population",
        keyword="epochs",
    )
    match_learning_rate: float | None = option(
        None,
        "step size of the training between two outer steps (default: 0.01, as in DC)",
        above=0,
        of="population",
        keyword="learning_rate",
    )


@options
class InnerOptions(Options):
    title: ClassVar[str] = "inner loop"
    inner_optimizer: str = option(
        "sgd",
        "optimiser of the inner loop",
        known="jaxdistill.inner.optimizers:INNER_OPTIMIZERS",
        of="inner",
    )
    inner_learning_rate: float = option(
        0.05, "step size of the inner loop; if it is learned, its initial value", of="inner"
    )
    inner_momentum: float = option(
        0.0, "momentum of the inner loop (sgd); if it is learned, its initial value", low=0, of="inner"
    )
    learned: tuple[str, ...] = option(
        ("learning_rate",), "inner hyper-parameters to learn; empty for none", of="inner"
    )
    positive: str = option(
        "softplus",
        "how learned step sizes stay positive",
        known="jaxdistill.inner.optimizers:POSITIVE",
        of="inner",
    )
    per_step: bool = option(True, "learn one value per inner step instead of one for all", of="inner")
    weight_decay: float = option(0.0, "L2 coefficient of the inner loss", low=0, of="inner")
    gradient: str = option(
        "unrolled",
        "how training is differentiated; another one than the method's own keeps the other settings of the "
        "method, such as the pool and the losses of frepo and rcig",
        known=GRADIENTS,
        of="inner",
    )
    inner_loss: str = option(
        "cross_entropy",
        "loss of training on synthetic images; platt is the cross-entropy with a learned temperature "
        "(closed_form, convexified: squared, also for their pool of networks)",
        known="jaxdistill.core.labels:LOSSES",
        of="method",
    )
    ridge: float = option(
        1e-6,
        "closed_form, convexified: number added to the kernel's diagonal, times ridge_unit",
        low=0,
        of="gradient",
    )
    ridge_unit: str = option(
        "trace",
        "unit of ridge: the mean diagonal entry of the kernel (trace), or the number of synthetic images",
        known="jaxdistill.inner.closed_form:RIDGE_UNITS",
        of="gradient",
    )
    validate_every: int | None = option(
        None,
        "inner steps between two losses on real data, whose mean is minimised (default: only the last loss)",
        low=1,
        of="gradient",
    )
    remat: str = option(
        "none",
        "what backpropagation recomputes to save memory",
        known="jaxdistill.inner.train:REMAT",
        of="gradient",
    )
    backprop_last: int | None = option(
        None,
        "truncated gradients: number of last inner steps to backpropagate through (default: half)",
        low=1,
        of="gradient",
    )
    random_window: bool = option(
        False, "truncated gradients: end the window at a random inner step", of="gradient"
    )
    memory_budget: str | None = option(
        None,
        "memory limit of gradient=auto, such as 2GB: it takes the first of unrolled, remat step, remat sqrt "
        "that fits",
        of="gradient",
    )
    allow_implicit: bool = option(
        False, "with gradient=auto, take implicit gradients if nothing else fits", of="gradient"
    )


@options
class ImplicitOptions(Options):
    title: ClassVar[str] = "implicit gradients"
    linear_solver: str = option(
        "cg",
        "solver of (H + damping I) v = g",
        known="jaxdistill.inner.solvers:LINEAR_SOLVERS",
        of="gradient",
    )
    damping: float = option(0.1, "number that is added to the diagonal of the Hessian", low=0, of="gradient")
    inner_tolerance: float = option(
        1e-3,
        "relative gradient norm at which inner training ends (convexified: 0.01)",
        low=0,
        of="gradient",
    )
    max_inner_steps: int = option(
        100,
        "limit of inner steps; convexified: of linear solves in training (default: 5); 0 for no limit",
        low=0,
        of="gradient",
    )
    solver_tolerance: float | None = option(
        None,
        "relative residual at which cg ends (default: 0.001)",
        low=0,
        of="linear_solver",
        keyword="tolerance",
    )
    solver_steps: int | None = option(
        None, "limit of iterations of cg (default: 100)", low=1, of="linear_solver", keyword="max_steps"
    )
    neumann_terms: int | None = option(
        None, "terms of the Neumann series (default: 20)", low=1, of="linear_solver", keyword="num_terms"
    )
    neumann_alpha: float | None = option(
        None,
        "factor of the Neumann series (default: 1 / largest eigenvalue, estimated)",
        of="linear_solver",
        keyword="alpha",
    )
    nystrom_rank: int | None = option(
        None, "size of the Nystrom sketch (default: 20)", low=1, of="linear_solver", keyword="rank"
    )
    identity_scale: float | None = option(
        None, "multiple of the identity (default: 1)", of="linear_solver", keyword="scale"
    )
    implicit_clip: bool = option(
        False,
        "convexified: clip the implicit part of the hypergradient to the norm of the direct part, array by "
        "array",
        of="gradient",
    )
    warm_start: bool = option(
        False, "start the linear solve from the previous outer step's solution", of="gradient"
    )
    on_failed_solve: str = option(
        "stop",
        "what to do when a linear solve ends with NaN or a relative residual above 1",
        known=FAILED_SOLVES,
        of="gradient",
    )


@options
class MapOptions(Options):
    """How an axis of networks is computed."""

    title: ClassVar[str] = "outer loop"
    strategy: str = option("auto", "how the axis of K learners is computed", known=STRATEGIES)
    learner_chunk: int | None = option(
        None, "learners computed at the same time; fewer take less memory", low=1
    )


@options
class AugmentOptions(Options):
    title: ClassVar[str] = "outer loop"
    augment: tuple[str, ...] | None = option(
        None,
        "operations of the augmentation: color, crop, cutout, flip, rotate, scale; empty for none (default: "
        "all, but none in dd, gtn and frepo; flip only in sets whose mirror images are known to keep their "
        "class); color_crop is color,crop",
        known="jaxdistill.augment:OPERATIONS",
        joined="_",
        of="method",
        keyword="augmentation",
    )
    augment_strength: float = option(
        1.0,
        "strength of the augmentation, relative to the paper's",
        low=0,
        high=2,
        of="method",
        keyword="augmentation",
    )


@options
class OuterOptions(AugmentOptions, MapOptions):
    title: ClassVar[str] = "outer loop"
    method: str = option(
        "dd",
        "the method, which sets the defaults (its paper's settings, or settings for small images)",
        known="jaxdistill.methods:METHODS",
    )
    num_outer_steps: int = option(1500, "outer steps", low=1)
    outer_optimizer: str = option(
        "adam", "optimiser of the outer loop", known="jaxdistill.methods.outer:OUTER_OPTIMIZERS"
    )
    outer_learning_rate: float = option(0.01, "learning rate of the outer optimiser")
    outer_learning_rates: tuple[str, ...] = option(
        (),
        "learning rates of single learned parts, as in images:0.003,labels:0.01; they follow the schedule of "
        "outer_learning_rate",
    )
    outer_momentum: float = option(0.5, "momentum of the outer sgd", low=0, of="outer_optimizer")
    hyper_learning_rate: float | None = option(
        None,
        "outer learning rate of learned inner hyper-parameters and of a learned temperature; 0 keeps their "
        "initial values (default: outer_learning_rate)",
        low=0,
        of="inner",
    )
    outer_b1: float = option(
        0.5,
        "decay of the gradient average in the outer adam, lamb or adabelief",
        low=0,
        high=1,
        of="outer_optimizer",
    )
    schedule: str = option(
        "cosine", "schedule of the outer learning rate", known="jaxdistill.methods.outer:OUTER_SCHEDULES"
    )
    schedule_end: float = option(
        0.0, "final outer learning rate of the cosine, relative to the first", low=0, high=1
    )
    clip: float = option(1.0, "largest global norm of the hypergradient; 0 for no clip", low=0)
    relative_clip: float = option(
        0.0,
        "largest global norm of the hypergradient, relative to the moving average of earlier norms; 0 for no "
        "clip",
        low=0,
    )
    max_inner_learning_rate: float = option(
        2.0, "upper bound of learned step sizes; 0 for none", low=0, of="inner"
    )
    outer_ema: float = option(
        0.0,
        "decay of an average of the learned values over the outer steps, which is the output; 0 outputs the "
        "last values",
        low=0,
        below=1,
    )
    real_batch_size: int = option(
        256, "real images per outer step; in dc, dsa and dm per class", low=1, of="method"
    )
    outer_loss: str = option(
        "cross_entropy",
        "loss on real images (closed_form, convexified: squared)",
        known="jaxdistill.core.labels:LOSSES",
        of="method",
    )
    label_margin: float = option(
        0.0,
        "least gap between the two largest entries of a learned label, times the number of classes: 1 in "
        "FRePo, 0.5 in RCIG; 0 for none",
        low=0,
        of="method",
    )
    distance: str = option(
        "layerwise",
        "distance of two gradients",
        known="jaxdistill.objectives.gradient_matching:DISTANCES",
        of="method",
    )
    by_class: bool = option(True, "match each class separately, not all classes together", of="method")
    feature_layers: str = option(
        "last",
        "layers whose features dm matches",
        known="jaxdistill.objectives.distribution_matching:LAYERS",
        of="method",
        keyword="layers",
    )
    class_strategy: str = option("auto", "how the axis of classes is computed", known=STRATEGIES, of="method")
    synthetic_batch_size: int | None = option(
        None,
        "synthetic images per class in an outer step, drawn at random (default: all)",
        low=1,
        of="method",
    )
    num_learners: int = option(8, "K, learners per outer step", low=1)
    microbatch: int | None = option(
        None,
        "real images computed at the same time (default: all; on a CPU 64, or in matching as many as take "
        "24 MiB)",
        low=1,
        of="method",
    )


@options
class TrajectoryOptions(Options):
    title: ClassVar[str] = "trajectory matching"
    experts: str = option("runs/experts", "folder that experiments.experts wrote", of="trajectories")
    start_epochs: int = option(
        25, "segments start at a random epoch of an expert, below this number", low=1, of="population"
    )
    expert_epochs: int = option(
        3,
        "epochs of the expert in a segment; the student should reach the segment's end",
        low=1,
        of="population",
    )
    inner_batch_size: int | None = option(
        None,
        "images per inner step, drawn from all synthetic images; dd draws equally many of every class "
        "(default: the teacher's batches)",
        low=1,
        of="method",
    )


@options
class PoolOptions(Options):
    title: ClassVar[str] = "pre-trained networks"
    pool: str | None = option(None, "folder that experiments.pretrain wrote", of="pool")
    pool_dataset: str | None = option(
        None, "the data set that the pool was trained on, if it is not `dataset` (adaptation)", of="pool"
    )


@options
class SearchOptions(Options):
    title: ClassVar[str] = "evaluation"
    num_search_learners: int = option(5, "networks per candidate when a step size is searched", low=1)
    step_sizes: tuple[float, ...] = option(
        STEP_SIZES,
        "step sizes to try for a baseline (default: these for SGD, multiples of a protocol's own for Adam)",
        above=0,
        some=True,
    )
    fresh_baselines: bool = option(
        False, "train on real images again instead of reading accuracies from the user's cache"
    )


@options
class EvaluationOptions(SearchOptions):
    title: ClassVar[str] = "evaluation"
    protocol: str | None = option(
        None,
        "how test networks are trained: with the batches and steps of the distillation (as_distilled), for "
        "300 epochs (dc), for 1000 epochs with DC's augmentation for MNIST (dc_augmented) or with DSA's "
        "(dsa), the last also with smaller batches and CutMix (idc) or without CutMix (idc_unmixed), by Adam "
        "and a squared loss with DSA's augmentation (frepo) or without (rcig), by Adam and a cross-entropy "
        "with the method's augmentation (rat); default: the method's own",
        known="jaxdistill.evaluation.protocols:PROTOCOLS",
    )
    eval_norm: str | None = option(
        None,
        "normalisation of the networks that test the images (default: as in distillation)",
        known="jaxdistill.layers.modules:NORMS",
        of="learner",
        keyword="norm",
    )
    eval_activation: str | None = option(
        None,
        "activation function of the networks that test the images (default: as in distillation)",
        known="jaxdistill.layers.modules:ACTIVATIONS",
        of="learner",
        keyword="activation",
    )
    num_eval_learners: int = option(20, "networks that are trained on the distilled images", low=1)
    num_baseline_learners: int = option(20, "networks per baseline; 0 leaves the baselines out", low=0)
    full_data_epochs: int = option(
        20, "epochs of training on the full training set; 0 leaves the row out", low=0
    )


@options
class SeedOptions(Options):
    title: ClassVar[str] = "run"
    seed: int = option(0, "root of all randomness", low=0, high=LARGEST_SEED)


@options
class RunOptions(SeedOptions):
    title: ClassVar[str] = "run"
    run_dir: str | None = option(None, "folder to write the run into; a run that is already there is resumed")
    chunk_length: int | None = option(
        None, "outer steps per compiled program (default: depends on the platform)", low=1
    )
    checkpoint_every: int = option(500, "outer steps between checkpoints", low=1)
    tensorboard: bool = option(False, 'also write TensorBoard events (pip install "jaxdistill[tensorboard]")')


@options
class DeviceOptions(Options):
    title: ClassVar[str] = "devices"
    mesh: str | None = option(
        None,
        "learner:4,data:2 uses 8 devices: it splits the K learners in 4 and each real batch in 2 (default: "
        "learner:N with the largest number N of devices that divides K)",
    )
    precision: str = option(
        "float32",
        "precision of matrix products and convolutions on GPUs and TPUs; a CPU always has float32",
        known="jaxdistill.core.platform:PRECISIONS",
    )


@options
class HostOptions(Options):
    """The place of this process among several; scripts join the other processes first."""

    title: ClassVar[str] = "hosts"
    multihost: bool = option(
        False, "this is one of several processes, which SLURM, Open MPI or a TPU pod started"
    )
    coordinator: str | None = option(
        None, "without a cluster manager: HOST:PORT of process 0, where PORT is free"
    )
    num_processes: int | None = option(None, "without a cluster manager: number of processes", low=1)
    process_id: int | None = option(None, "without a cluster manager: index of this process, from 0", low=0)
    start_timeout: int = option(300, "seconds within which all processes have to start", low=1)


@options
class Config(
    DataOptions,
    StreamingOptions,
    TeacherOptions,
    LearnerOptions,
    InnerOptions,
    ImplicitOptions,
    OuterOptions,
    TrajectoryOptions,
    PoolOptions,
    EvaluationOptions,
    RunOptions,
    DeviceOptions,
):
    """A distillation: the options of `python -m experiments.distill` except those for several hosts.

    Options that are left out take the settings of the method's paper, or the method's settings for small
    images, see `jaxdistill.config.resolve`.

    Example:
      >>> Config(method="dc", dataset="mnist", images_per_class=10)
      Config(dataset='mnist', images_per_class=10, method='dc')
    """


PLACES = (
    "run_dir",
    "data_dir",
    "manual_dir",
    *StreamingOptions.options(),
    "experts",
    "pool",
    "fresh_baselines",
    *DeviceOptions.options(),
    *HostOptions.options(),
)
"""Options for folders, devices and the user's cache; they are no part of a run's identity."""
OF_A_SAVED_RUN = ("dataset", *Places.options())
"""Options by which scripts find the data of a saved run."""
CADENCE = ("checkpoint_every", "tensorboard")
"""Options that change no number of a result."""
FREE = (*EvaluationOptions.options(), *CADENCE)
"""Options that may change when a run is resumed."""
