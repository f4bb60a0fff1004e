//! One layer of a decoder, as data: norms, attention, MLP, and how they are wired.

use super::rope::RopeSpec;

/// One layer.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerSpec {
    /// How attention and MLP read and write the residual stream.
    pub wiring: Wiring,
    /// Norm of what attention reads.
    pub attention_norm: Option<NormSpec>,
    /// Attention.
    pub attention: AttentionSpec,
    /// Norm of what attention writes (Gemma 2 and 3, OLMo 2).
    pub attention_post_norm: Option<NormSpec>,
    /// Norm of what the MLP reads. With [`Wiring::Parallel`] `None` means attention's.
    pub mlp_norm: Option<NormSpec>,
    /// The MLP.
    pub mlp: MlpSpec,
    /// Norm of what the MLP writes.
    pub mlp_post_norm: Option<NormSpec>,
    /// Factor of what is added to the residual stream (MiniCPM: scale_depth / √n_layers).
    pub residual_scale: f32,
}

/// How attention and MLP read and write the residual stream x.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wiring {
    /// x ← x + attention(norm(x)); x ← x + mlp(norm(x)).
    Sequential,
    /// x ← x + attention(norm(x)) + mlp(norm(x)), both of the same x (GPT-J, GPT-NeoX, Falcon, Phi-2).
    Parallel,
    /// x ← norm(x + attention(x)); x ← norm(x + mlp(x)) (OPT-350m).
    NormAfterSum,
    /// As `Sequential`, but added to the normed x (BLOOM's apply_residual_connection_post_layernorm).
    NormedResidual,
}

/// Which norm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// x / √(mean(x²) + ε).
    Rms,
    /// (x − mean) / √(variance + ε).
    Layer,
}

/// A norm.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NormSpec {
    /// Which.
    pub kind: NormKind,
    /// ε.
    pub epsilon: f32,
    /// The gain is 1 + γ (Gemma).
    pub plus_one: bool,
    /// It has gains γ (OLMo 1 has none).
    pub gain: bool,
    /// It has a bias.
    pub bias: bool,
}

impl NormSpec {
    /// RMSNorm with gains.
    pub fn rms(epsilon: f32) -> Self {
        Self {
            kind: NormKind::Rms,
            epsilon,
            plus_one: false,
            gain: true,
            bias: false,
        }
    }

    /// RMSNorm with gains 1 + γ.
    pub fn rms_plus_one(epsilon: f32) -> Self {
        Self {
            plus_one: true,
            ..Self::rms(epsilon)
        }
    }

    /// LayerNorm with gains and bias.
    pub fn layer(epsilon: f32) -> Self {
        Self {
            kind: NormKind::Layer,
            epsilon,
            plus_one: false,
            gain: true,
            bias: true,
        }
    }
}

/// Attention.
#[derive(Debug, Clone, PartialEq)]
pub struct AttentionSpec {
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Width of a query or key head.
    pub head_dim: usize,
    /// Width of a value head; `head_dim` but in MLA.
    pub value_dim: usize,
    /// Factor of q·k.
    pub scale: f32,
    /// How q, k and v come from the stream.
    pub projections: Projections,
    /// q, k and v projections have biases.
    pub qkv_bias: bool,
    /// The output projection has a bias.
    pub output_bias: bool,
    /// q, k and v are cut to [−c, c] (OLMo 1's clip_qkv).
    pub clip: Option<f32>,
    /// Norms of q and k.
    pub qk_norm: Option<QkNorm>,
    /// Rotary positions; `None` where there are none in this layer.
    pub rope: Option<RopeSpec>,
    /// Linear biases by distance (BLOOM, old Falcon).
    pub alibi: Option<Alibi>,
    /// A token sees itself and the `window − 1` before it.
    pub window: Option<usize>,
    /// c of c · tanh(q·k / c) (Gemma 2).
    pub softcap: Option<f32>,
}

/// ALiBi: slope · position of the key is added to its score.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Alibi {
    /// Factor of the slopes: 1 in BLOOM; 1/√head_dim in Falcon, which scales after adding.
    pub scale: f32,
    /// Slopes, and their products with positions, are rounded to bfloat16 before the factor (Falcon).
    pub bfloat16: bool,
}

/// How q, k and v come from the stream.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Projections {
    /// One matrix each.
    Full,
    /// Multi-head latent attention (DeepSeek-V2/V3, MiniCPM3): low-rank q and shared low-rank k, v.
    Latent {
        /// Rank of q; `None`: one full matrix.
        q_rank: Option<usize>,
        /// Rank of k and v.
        kv_rank: usize,
        /// Part of a head without positions; comes first. The rest of `head_dim` is rotated, and for
        /// keys shared by all heads.
        nope_dim: usize,
        /// Norm of the latents.
        norm: NormSpec,
    },
}

/// Norms of q and k.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QkNorm {
    /// The norm.
    pub norm: NormSpec,
    /// Over what.
    pub scope: QkNormScope,
}

/// What a norm of q and k runs over, and how many gains it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkNormScope {
    /// Each head, gains shared by the heads `[head_dim]` (Qwen3, Gemma 3).
    Head,
    /// Each head, gains of its own `[n_heads × head_dim]` (StableLM 2 12B).
    EachHead,
    /// All heads together `[n_heads × head_dim]` (OLMo 2).
    Width,
}

/// Non-linearities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// x · σ(x).
    Silu,
    /// x · Φ(x), by the error function.
    Gelu,
    /// GELU by tanh.
    GeluTanh,
    /// x · σ(1.702 x) (CLIP).
    QuickGelu,
    /// max(x, 0).
    Relu,
}

/// What a layer does after attention.
#[derive(Debug, Clone, PartialEq)]
pub enum MlpSpec {
    /// One MLP.
    Dense(DenseSpec),
    /// A mixture of experts.
    Mixture(MixtureSpec),
}

/// An MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DenseSpec {
    /// Hidden units.
    pub intermediate_size: usize,
    /// down(act(gate(x)) · up(x)) instead of down(act(up(x))).
    pub gated: bool,
    /// The non-linearity.
    pub activation: Activation,
    /// Gate and up have biases.
    pub up_bias: bool,
    /// Down has a bias.
    pub down_bias: bool,
}

/// A mixture of experts.
#[derive(Debug, Clone, PartialEq)]
pub struct MixtureSpec {
    /// Number of experts.
    pub n_experts: usize,
    /// Experts that a token is sent to.
    pub top_k: usize,
    /// How they are chosen and weighted.
    pub router: RouterSpec,
    /// Each expert.
    pub expert: DenseSpec,
    /// An MLP that every token passes too.
    pub shared: Option<SharedExpert>,
}

/// An MLP beside the experts, for every token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SharedExpert {
    /// The MLP (several shared experts are stored as one wide one).
    pub mlp: DenseSpec,
    /// Its output is weighted by σ(gate · x) (Qwen2-MoE).
    pub gated_output: bool,
}

/// How a router's outputs become scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scoring {
    /// Softmax over all experts.
    Softmax,
    /// σ of each.
    Sigmoid,
}

/// How experts are chosen and weighted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RouterSpec {
    /// Scores.
    pub scoring: Scoring,
    /// Weights of the chosen are divided by their sum.
    pub normalise: bool,
    /// Factor of the weights.
    pub scale: f32,
    /// A learned bias is added to the scores for choosing, not for weighting (DeepSeek-V3).
    pub correction_bias: bool,
    /// Experts are chosen within the best groups.
    pub groups: Option<Groups>,
}

/// Choice within groups (DeepSeek).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Groups {
    /// Number of groups.
    pub n_groups: usize,
    /// Groups that are kept.
    pub top_k: usize,
    /// A group is as good as the sum of its two best experts (V3) instead of its best one (V2).
    pub by_best_two: bool,
}
