"""The speech tokenizer: a Whisper-shaped encoder with a vector quantiser inside (P1)."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    StringConstraints,
    model_validator,
)

from interloom.config.base import Frozen
from interloom.config.training import TrainConfig, with_audio_decays
from interloom.core.errors import ConfigError

SAMPLE_RATE_HZ = 16_000
SAMPLES_PER_MEL_FRAME = 160
SAMPLES_PER_STEM_FRAME = 320  # the second convolution has stride 2: 50 Hz


class EncoderConfig(Frozen):
    """The encoder. A "frame" here is one of its 50 Hz positions, before the pool.

    Attributes:
        pool_kernel: Average pool; 1, 2, 4, 8 give 50, 25, 12.5, 6.25 Hz.
        pool_after_layer: Layers that run before the pool, at 50 Hz.
        quantize_after_layer: Layers that run before the quantiser. P1 pools and quantises at the
            same place, half way up; on a processor it pays to pool earlier.
        block_frames: Attention below the quantiser sees the past and its own block of this many
            frames (200, 4 s, in P1's released model); None is full attention.
        window_frames: Attention reaches this many frames at most, on all layers; None, as in P1, is
            no limit. Codes that depend on nearby speech alone mean nearly the same in a span as in
            a sentence, and little speech is enough to learn words instead of sentences.
        shifts_positions: In training each batch begins anywhere in the position tables, so that
            long speech is read as well as the short utterances of the corpus.
        relative_reach: Heads learn a bias for each distance up to this many positions. None is
            Whisper, whose attention knows absolute positions alone: it needs far more speech.
        is_stem_causal: Pad both stem convolutions on the left only.
        max_frames: Rows of the position table; longer audio is encoded in pieces that overlap.
        bucket_tokens: An utterance's last block is padded to a multiple of this many tokens.
    """

    num_mel_bins: Literal[80, 128] = 80
    d_model: PositiveInt = 128
    num_heads: PositiveInt = 4
    ffn_dim: PositiveInt = 512
    num_layers: PositiveInt = 5
    pool_kernel: Literal[1, 2, 4, 8] = 4
    pool_after_layer: NonNegativeInt = 1
    quantize_after_layer: NonNegativeInt = 3
    block_frames: PositiveInt | None = 100
    window_frames: PositiveInt | None = 32
    shifts_positions: bool = True
    is_stem_causal: bool = True
    relative_reach: PositiveInt | None = 16
    max_frames: PositiveInt = 1500
    bucket_tokens: PositiveInt = 16

    @property
    def samples_per_token(self) -> int:
        """Audio samples that one code stands for: 1280 at 12.5 Hz."""
        return SAMPLES_PER_STEM_FRAME * self.pool_kernel

    @property
    def frames_per_token(self) -> int:
        """Mel frames of a code: 8 at 12.5 Hz."""
        return self.samples_per_token // SAMPLES_PER_MEL_FRAME

    @property
    def max_tokens(self) -> int:
        """Codes of the longest piece: whole ones, 187 of 1500 frames at 6.25 Hz."""
        return self.max_frames // self.pool_kernel

    @property
    def is_streaming(self) -> bool:
        """Whether codes depend on no later block, so that speech is encoded as it comes."""
        return self.block_frames is not None and self.is_stem_causal

    @property
    def step_frames(self) -> int:
        """Frames that are encoded at a time: a block, or all that the position table holds."""
        if self.block_frames is None or not self.is_stem_causal:
            return self.max_frames
        return min(self.block_frames, self.max_frames)

    @property
    def context_frames(self) -> int:
        """What each further piece of a long recording hears again of the one before it.

        A fifth of the position table, in whole blocks; at least one where two fit.
        """
        unit = self.step_frames if self.step_frames < self.max_frames else self.pool_kernel
        return max(1, self.max_frames // 5 // unit) * unit if unit < self.max_frames else 0

    @model_validator(mode="after")
    def _the_parts_fit(self) -> Self:
        if self.d_model % self.num_heads:
            raise ValueError(
                f"num_heads must divide d_model = {self.d_model}, got {self.num_heads}"
            )
        if not self.pool_after_layer <= self.quantize_after_layer <= self.num_layers:
            raise ValueError(
                "need pool_after_layer <= quantize_after_layer <= num_layers, got "
                f"{self.pool_after_layer}, {self.quantize_after_layer}, {self.num_layers}"
            )
        if self.max_frames < self.pool_kernel:
            raise ValueError(
                f"max_frames must be at least pool_kernel = {self.pool_kernel}, "
                f"got {self.max_frames}"
            )
        if self.block_frames is not None and self.block_frames % max(4, self.pool_kernel):
            raise ValueError(
                f"4 and pool_kernel = {self.pool_kernel} must divide block_frames, "
                f"got {self.block_frames}"
            )
        return self


class QuantizerConfig(Frozen):
    """EMA vector quantisation with restarts (P1; spec 8.1).

    Attributes:
        commitment: Beta, the weight of the commitment loss. P1 has 10 for an encoder that is
            already trained; from scratch, 10 teaches it first of all to make its vectors small.
        restart_every_steps: R. Each R steps, codes whose mean usage fell under ``decay ** R`` are
            set to vectors of the batch.
        start_step: Until this step the encoder trains without quantiser; then the codebook is set
            by k-means over its vectors. A codebook that starts on an untrained encoder follows
            vectors that mean nothing yet, and costs steps to get away from them.
        kmeans_batches: Batches whose vectors the k-means sees.
    """

    codebook_size: Annotated[int, Field(ge=2)] = 512
    decay: Annotated[float, Field(gt=0, lt=1)] = 0.99
    epsilon: PositiveFloat = 1e-5
    commitment: NonNegativeFloat = 1.0
    restart_every_steps: PositiveInt = 100
    start_step: NonNegativeInt = 300
    kmeans_batches: PositiveInt = 16
    kmeans_rounds: PositiveInt = 8


class AugmentConfig(Frozen):
    """Changes to what is heard in training, drawn from ``(seed, batch)``.

    Attributes:
        num_time_masks: SpecAugment masks over time.
        time_mask_frames: Longest one, in mel frames (10 ms).
        num_bin_masks: SpecAugment masks over mel bins.
        bin_mask_bins: Widest one.
        noise: Largest standard deviation of Gaussian noise on the log-mel.
        gain: Largest shift of the log-mel, up or down (0.25 is 10 dB).
        colour: Size of a smooth curve over the bins that is added, as a microphone or room does.
        background: Share of rows with steady noise, down to 25 dB under the loudest value.
        smoothed: Share of rows whose log-mel is smoothed as a regression decoder smooths it, so
            that decoded speech is read back as well as recorded speech.
        sped: Share of passages that are played faster or slower, as a tape is.
        speed: How much at most: 0.25 is 0.8 to 1.25 times as fast.
        tract: How much longer or shorter at most the vocal tract of those passages is, at the same
            pace: 0.25 is 0.8 to 1.25 times as long. Few voices then stand for more.
        spliced: Share of batches that are short passages spliced from runs of words of drawn
            utterances (where words' places are known), so that words are learnt, not sentences.
        spliced_first: So many batches are all spliced to begin with: short passages show soonest
            which sound belongs to which word.
        spliced_frames: Mel frames that a passage may have.
        spliced_words: Longest run.
    """

    num_time_masks: NonNegativeInt = 1
    time_mask_frames: NonNegativeInt = 6
    num_bin_masks: NonNegativeInt = 1
    bin_mask_bins: NonNegativeInt = 8
    noise: NonNegativeFloat = 0.05
    gain: NonNegativeFloat = 0.25
    colour: NonNegativeFloat = 0.05
    background: Annotated[float, Field(ge=0, le=1)] = 0.15
    smoothed: Annotated[float, Field(ge=0, le=1)] = 0.1
    sped: Annotated[float, Field(ge=0, le=1)] = 0.0
    speed: Annotated[float, Field(ge=0, le=1)] = 0.25
    tract: Annotated[float, Field(ge=0, le=1)] = 0.0
    spliced: Annotated[float, Field(ge=0, le=1)] = 0.5
    spliced_first: NonNegativeInt = 300
    spliced_frames: PositiveInt = 128
    spliced_words: PositiveInt = 3


class Limit(Frozen):
    """Where a share becomes a warning, and where the tokenizer is not published."""

    warn: Annotated[float, Field(ge=0, le=1)]
    fail: Annotated[float, Field(ge=0, le=1)]


class HealthLimits(Frozen):
    """What a trained codebook must be like, as shares of its size.

    Attributes:
        used: Least share of the codes that training speech uses.
        perplexity: Least perplexity of their use.
        dead: Highest share of codes that were not seen since the last restarts.
    """

    used: Limit = Limit(warn=0.5, fail=0.05)
    perplexity: Limit = Limit(warn=0.2, fail=0.02)
    dead: Limit = Limit(warn=0.3, fail=0.9)

    @model_validator(mode="after")
    def _warnings_come_first(self) -> Self:
        for name, limit, is_ordered in (
            ("used", self.used, self.used.fail <= self.used.warn),
            ("perplexity", self.perplexity, self.perplexity.fail <= self.perplexity.warn),
            ("dead", self.dead, self.dead.warn <= self.dead.fail),
        ):
            if not is_ordered:
                raise ValueError(
                    f"{name} must warn before it fails, got warn = {limit.warn:g} and "
                    f"fail = {limit.fail:g}"
                )
        return self


TokenizerRef = Annotated[str, StringConstraints(pattern=r"^tokenizer_model:[0-9a-f]{64}$")]


class TokenizerConfig(Frozen):
    """Model and training of the speech tokenizer.

    Attributes:
        start_from: Begin with the encoder and codebook of this artifact, ``tokenizer_model:ID``, as
            ``interloom ingest tokenizer`` or a run gives it; None begins with random numbers.
        decoder_layers: Layers of the attention decoder that gives P1's ASR loss.
        ctc_weight: Weight of the CTC head's loss beside the decoder's.
        ctc_rate: Of the CTC head: that of the codes, or that before the pool, 50 Hz, which has room
            for all labels at 6.25 Hz and aligns words to 20 ms. Where words have known places, give
            it a ``ctc_weight`` of 0.1: with so many places CTC pulls to blanks, against them.
        aligned_weight: Weight of its cross-entropy code by code, for utterances whose words have
            known places. It spares the steps in which CTC searches for an alignment.
        reader: The head that reads codes back as text. CTC is the default: it costs one matrix
            product, it cannot loop or invent, and it also aligns.
        batch_frames: Mel frames of a batch, padding included.
        pseudo_share: Share of batches that are of speech whose transcripts a recogniser wrote; None
            takes all utterances alike. P1 has 0.75: supervised to pseudo-labelled as 1 to 3.
    """

    start_from: TokenizerRef | None = None
    encoder: EncoderConfig = EncoderConfig()
    quantizer: QuantizerConfig = QuantizerConfig()
    augment: AugmentConfig = AugmentConfig()
    health: HealthLimits = HealthLimits()
    decoder_layers: PositiveInt = 2
    ctc_weight: PositiveFloat = 1.0
    ctc_rate: Literal["codes", "frames"] = "codes"
    aligned_weight: NonNegativeFloat = 1.0
    decoder_weight: PositiveFloat = 1.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    reader: Literal["ctc", "decoder"] = "ctc"
    batch_frames: PositiveInt = 3000
    pseudo_share: Annotated[float, Field(gt=0, lt=1)] | None = None
    training: TrainConfig = with_audio_decays(
        TrainConfig(
            num_steps=2000,
            learning_rate=2e-3,
            final_learning_rate_ratio=0.02,
            warmup_steps=100,
            checkpoint_every_steps=200,
            log_every_steps=20,
        )
    )

    @property
    def ctc_kernel(self) -> int:
        """Places of the CTC head for each code."""
        return self.encoder.pool_kernel if self.ctc_rate == "frames" else 1

    @property
    def samples_per_place(self) -> int:
        """Audio samples that a place of the CTC head stands for."""
        return self.encoder.samples_per_token // self.ctc_kernel


_SIZES: Mapping[str, tuple[int, int, int, int]] = MappingProxyType(
    {  # width, heads, layers of encoder and decoder, mel bins
        "tiny": (384, 6, 4, 80),
        "base": (512, 8, 6, 80),
        "small": (768, 12, 12, 80),
        "medium": (1024, 16, 24, 80),
        "large-v2": (1280, 20, 32, 80),
        "large-v3": (1280, 20, 32, 128),
    }
)
_RATES: Mapping[str, tuple[Literal[1, 2, 4, 8], int]] = MappingProxyType(
    {"50": (1, 4096), "25": (2, 4096), "12.5": (4, 16_384), "6.25": (8, 65_536)}
)  # Hz: pool and codebook (P1, section 2.1)

SIZES, RATES_HZ = tuple(_SIZES), tuple(_RATES)


def p1_tokenizer(size: str, rate_hz: str) -> TokenizerConfig:
    """P1's tokenizer: a Whisper of some size, quantised half way up, causal in blocks of 4 s.

    Args:
        size: One of ``SIZES``, as Whisper's are named.
        rate_hz: One of ``RATES_HZ``, codes a second.

    Raises:
        ConfigError: There is no such size, or the stem cannot give that rate.
    """
    if size not in _SIZES:
        raise ConfigError(f"the sizes of Whisper are {', '.join(SIZES)}, got {size!r}")
    if rate_hz not in _RATES:
        raise ConfigError(
            f"the stem gives 50 Hz, pooled to {', '.join(RATES_HZ)} Hz; got {rate_hz!r}"
        )
    width, heads, layers, bins = _SIZES[size]
    kernel, codes = _RATES[rate_hz]
    return TokenizerConfig(
        encoder=EncoderConfig(
            num_mel_bins=128 if bins == 128 else 80,
            d_model=width,
            num_heads=heads,
            ffn_dim=4 * width,
            num_layers=layers,
            pool_kernel=kernel,
            pool_after_layer=layers // 2,
            quantize_after_layer=layers // 2,
            block_frames=200,
            window_frames=None,
            shifts_positions=False,
            relative_reach=None,
        ),
        quantizer=QuantizerConfig(codebook_size=codes, commitment=10.0, start_step=0),
        decoder_layers=layers,
        ctc_rate="frames",
        dropout=0.0,
        training=with_audio_decays(
            TrainConfig(
                num_steps=20_000,
                learning_rate=1e-5,
                warmup_steps=500,
                precision="bf16",
                gradient_accumulation=8,
                checkpoint_every_steps=500,
            )
        ),
    )
